package org.sftmix.android

import kotlin.time.Duration
import kotlin.time.Duration.Companion.minutes
import kotlin.time.Duration.Companion.seconds
import org.sftmix.Limits

/**
 * What the device is at, in plain numbers.
 *
 * @param battery its charge, 0 to 1; `null` where there is none.
 * @param charging whether it is on power.
 * @param thermal the status of Android's PowerManager: 0 none, 1 light, 2 moderate, 3 severe, 4 critical and above.
 * @param powerSave whether the user asked the device to save power.
 */
public data class Conditions(val battery: Double?, val charging: Boolean, val thermal: Int, val powerSave: Boolean)

/**
 * How hard training may work on a device. It knows nothing of Android, and is tested on a desktop.
 *
 * @param leastBattery below this charge, off power, nothing runs.
 * @param slice how long a slice is when all is well.
 */
public class SlicePolicy(private val leastBattery: Double = 0.3, private val slice: Duration = 9.minutes) {
    /**
     * What a job may take now: its share of the time, or `null` where it should stop behind a checkpoint. Heat counts most:
     * a device that throttles itself trains no faster for being driven harder.
     */
    public fun limits(now: Conditions): Limits? {
        val share = when {
            now.thermal >= 3 -> return null
            !now.charging && (now.battery ?: 1.0) < leastBattery -> return null
            now.thermal == 2 -> 0.25
            now.powerSave -> 0.25
            now.thermal == 1 || !now.charging -> 0.5
            else -> 1.0
        }
        return Limits(dutyCycle = share)
    }

    /**
     * How long the next slice may be: what is [left] of the time that the system gives, less what a checkpoint needs, and
     * `null` where that is too short to be worth a start.
     */
    public fun slice(left: Duration, checkpoint: Duration = 20.seconds): Duration? =
        minOf(slice, left - checkpoint).takeIf { it >= 10.seconds }
}
