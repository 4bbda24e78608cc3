import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertNull
import kotlin.time.Duration.Companion.minutes
import kotlin.time.Duration.Companion.seconds
import kotlinx.coroutines.runBlocking
import org.sftmix.TrainingJob
import org.sftmix.android.Conditions
import org.sftmix.android.SlicePolicy

/** What the worker for Android decides, as far as it needs no Android. */
class SlicePolicyTest {
    private val policy = SlicePolicy()
    private val well = Conditions(battery = 0.9, charging = true, thermal = 0, powerSave = false)

    @Test
    fun `heat, battery and the wish to save power slow it down or stop it`() {
        fun share(now: Conditions) = policy.limits(now)?.dutyCycle
        assertEquals(1.0, share(well))
        assertEquals(0.5, share(well.copy(thermal = 1)))
        assertEquals(0.25, share(well.copy(thermal = 2)))
        assertNull(share(well.copy(thermal = 3)))
        assertNull(share(well.copy(thermal = 5)))
        assertEquals(0.5, share(well.copy(charging = false)))
        assertNull(share(well.copy(charging = false, battery = 0.29)))
        assertEquals(1.0, share(well.copy(battery = 0.05)))
        assertEquals(0.25, share(well.copy(powerSave = true)))
        assertEquals(0.5, share(well.copy(charging = false, battery = null)))
    }

    @Test
    fun `slices leave time for a checkpoint`() {
        assertEquals(9.minutes, policy.slice(10.minutes))
        assertEquals(100.seconds, policy.slice(120.seconds))
        assertNull(policy.slice(25.seconds))
    }

    @Test
    fun `a job takes what the policy gives`() = runBlocking {
        TrainingJob(settings(folder().resolve("run"))).use { job ->
            job.update(policy.limits(well.copy(thermal = 2))!!)
            job.update(policy.limits(well)!!)
            job.run()
            assertEquals(1.0, job.status.limits.dutyCycle)
        }
    }
}
