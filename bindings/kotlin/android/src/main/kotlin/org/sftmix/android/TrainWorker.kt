package org.sftmix.android

import android.content.Context
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
import androidx.work.Constraints
import androidx.work.CoroutineWorker
import androidx.work.ExistingWorkPolicy
import androidx.work.OneTimeWorkRequest
import androidx.work.WorkManager
import androidx.work.WorkerParameters
import androidx.work.workDataOf
import kotlin.time.Duration.Companion.minutes
import kotlin.time.Duration.Companion.seconds
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.delay
import kotlinx.coroutines.launch
import org.sftmix.SftmixException
import org.sftmix.Slice
import org.sftmix.TrainingJob

// What WorkManager gives a worker before it stops it.
private val GIVEN = 10.minutes

/**
 * Trains a run in slices while the device charges and is idle. Each slice is a piece of work of its own that ends behind a
 * checkpoint; when the constraints no longer hold the system cancels the coroutine, and with it the slice ends at its next
 * micro-batch, behind a checkpoint too. A process that is killed loses what came after the newest one.
 *
 * It takes up a run that was begun. To begin one here, override [open]: `TrainingJob(settings)` where the folder holds none.
 */
public open class TrainWorker(context: Context, parameters: WorkerParameters) : CoroutineWorker(context, parameters) {
    private val policy = SlicePolicy()

    /** The job of a run folder. */
    protected open fun open(run: String): TrainingJob = TrainingJob.resume(run)

    override suspend fun doWork(): Result {
        val run = inputData.getString(RUN) ?: return failed("no run was named")
        val limits = policy.limits(conditions()) ?: return Result.retry()
        val slice = try {
            open(run).use { job ->
                job.update(limits)
                watched(job)
            }
        } catch (e: SftmixException.Stopped) {
            // Too hot, or too little charge: later.
            return Result.retry()
        } catch (e: SftmixException) {
            return failed(e.message)
        }
        slice.report?.let { return Result.success(workDataOf(ADAPTER to it.adapter)) }
        enqueue(applicationContext, run, javaClass, ExistingWorkPolicy.APPEND_OR_REPLACE)
        return Result.success()
    }

    /** A slice, during which heat and battery are looked at. */
    private suspend fun watched(job: TrainingJob): Slice = coroutineScope {
        val watching = launch {
            while (true) {
                delay(15.seconds)
                val limits = policy.limits(conditions())
                if (limits == null) job.cancel() else job.update(limits)
            }
        }
        try {
            job.runSlice(policy.slice(GIVEN) ?: GIVEN / 2)
        } finally {
            watching.cancel()
        }
    }

    private fun conditions(): Conditions {
        val power = applicationContext.getSystemService(PowerManager::class.java)
        val battery = applicationContext.getSystemService(BatteryManager::class.java)
        val charge = battery.getIntProperty(BatteryManager.BATTERY_PROPERTY_CAPACITY)
        return Conditions(
            battery = if (charge in 0..100) charge / 100.0 else null,
            charging = battery.isCharging,
            thermal = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) power.currentThermalStatus else 0,
            powerSave = power.isPowerSaveMode,
        )
    }

    private fun failed(reason: String?) = Result.failure(workDataOf(ERROR to reason))

    public companion object {
        /** Key of the run folder in the worker's input. */
        public const val RUN: String = "run"

        /** Key of the adapter's folder in the output of the last slice. */
        public const val ADAPTER: String = "adapter"

        /** Key of the message in the output of a slice that failed. */
        public const val ERROR: String = "error"

        /** Lets a run train whenever the device charges, is idle, and has battery and storage left. One chain a run. */
        public fun enqueue(
            context: Context,
            run: String,
            worker: Class<out TrainWorker> = TrainWorker::class.java,
            policy: ExistingWorkPolicy = ExistingWorkPolicy.KEEP,
        ) {
            val constraints = Constraints.Builder()
                .setRequiresCharging(true)
                .setRequiresDeviceIdle(true)
                .setRequiresBatteryNotLow(true)
                .setRequiresStorageNotLow(true)
                .build()
            // No backoff of its own: WorkManager refuses one together with idle.
            val request = OneTimeWorkRequest.Builder(worker)
                .setConstraints(constraints)
                .setInputData(workDataOf(RUN to run))
                .build()
            WorkManager.getInstance(context).enqueueUniqueWork("sftmix:$run", policy, request)
        }
    }
}
