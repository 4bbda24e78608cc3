//! The enums by their words, which are those of the JSON.

use std::ffi::{c_char, c_int};

use crate::event::{sftmix_event_kind, sftmix_stage};
use crate::fault::sftmix_status;
use crate::map::sftmix_half;
use crate::status::sftmix_job_state;

/// The word of a number. Numbers come from C, where an enum may be any: they are compared, and never taken for one. That no
/// variant is left out, the compiler sees.
macro_rules! word {
    ($number:ident of $name:ident { $($variant:ident $word:literal),* $(,)? }) => {{
        use $name::*;
        const fn _every(x: $name) -> bool {
            match x { $($variant => true),* }
        }
        match $number {
            $(n if n == $variant as c_int => concat!($word, "\0"),)*
            _ => "unknown\0",
        }
        .as_ptr()
        .cast()
    }};
}

/// A `sftmix_status` as a word: `ok`, `invalid_config`. A number that this version does not know is `unknown`. The text is the
/// library's and stays.
#[unsafe(no_mangle)]
pub extern "C" fn sftmix_status_name(status: c_int) -> *const c_char {
    word!(status of sftmix_status {
        Ok "ok", Io "io", InvalidConfig "invalid_config", ModelNotSupported "model_not_supported",
        ModelFormat "model_format", Tokenizer "tokenizer", ChatTemplate "chat_template", DataInvalid "data_invalid",
        NothingToTrain "nothing_to_train", NothingTrained "nothing_trained", Adapter "adapter",
        BaseMismatch "base_mismatch", ExportMismatch "export_mismatch", Dynamics "dynamics", Checkpoint "checkpoint",
        NonFinite "non_finite", Stopped "stopped", Device "device", DeviceMemory "device_memory",
        MemoryLimit "memory_limit", Tensor "tensor", Misuse "misuse", Callback "callback", Threads "threads",
        NoDynamics "no_dynamics", ModelNotFound "model_not_found", Download "download", Other "other",
        InvalidArgument "invalid_argument", InvalidHandle "invalid_handle", Forked "forked", Panic "panic",
    })
}

/// A `sftmix_job_state` as a word: `idle`, `running`. Otherwise as `sftmix_status_name`.
#[unsafe(no_mangle)]
pub extern "C" fn sftmix_job_state_name(state: c_int) -> *const c_char {
    word!(state of sftmix_job_state {
        Idle "idle", Preparing "preparing", Running "running", Pausing "pausing", Paused "paused",
        Stopping "stopping", Done "done", Cancelled "cancelled", Failed "failed", Other "other",
    })
}

/// A `sftmix_event_kind` as a word: `none`, `step`. Otherwise as `sftmix_status_name`.
#[unsafe(no_mangle)]
pub extern "C" fn sftmix_event_kind_name(kind: c_int) -> *const c_char {
    word!(kind of sftmix_event_kind {
        None "none", Prepared "prepared", Step "step", Evaluated "evaluated", StoppedEarly "stopped_early",
        Sweep "sweep", Split "split", Checkpoint "checkpoint", Limits "limits", Other "other",
    })
}

/// A `sftmix_stage` as a word: `reference`, `single`; none is `none`. Otherwise as `sftmix_status_name`.
#[unsafe(no_mangle)]
pub extern "C" fn sftmix_stage_name(stage: c_int) -> *const c_char {
    word!(stage of sftmix_stage {
        None "none", Base "base", Reference "reference", Target "target", Single "single", Other "other",
    })
}

/// A `sftmix_half` as a word: `confident`. Otherwise as `sftmix_status_name`.
#[unsafe(no_mangle)]
pub extern "C" fn sftmix_half_name(half: c_int) -> *const c_char {
    word!(half of sftmix_half { Neither "neither", Confident "confident", Unconfident "unconfident" })
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use sftmix::dynamics::Half;
    use sftmix::{Event, JobState, JobStatus};

    use super::*;
    use crate::event::{event_out, stage_of};
    use crate::status::info_out;

    fn text(p: *const c_char) -> &'static str {
        unsafe { CStr::from_ptr(p) }.to_str().unwrap()
    }

    #[test]
    fn words_are_those_of_the_json() {
        use JobState::*;
        for state in [Idle, Preparing, Running, Pausing, Paused, Stopping, Done, Cancelled, Failed] {
            let mut status = JobStatus::default();
            status.state = state;
            let json = serde_json::to_value(&status).unwrap();
            assert_eq!(json["state"], text(sftmix_job_state_name(info_out(&status).state as c_int)));
        }
        let events = [
            Event::Split { confident: 1, unconfident: 1, neither: 0 },
            Event::Sweep { number: 1, of: 1, done: 1, total: 1 },
            Event::Checkpoint { path: "c".into() },
            Event::Step(Default::default()),
            Event::Limits { limits: Default::default(), refused: Option::None },
        ];
        for event in events {
            let mut out = event_out(&event, 0).unwrap();
            let json = serde_json::to_value(&event).unwrap();
            assert_eq!(json["event"], text(sftmix_event_kind_name(out.kind as c_int)));
            unsafe { crate::border::Sized::free(&mut out) };
        }
        for word in ["base", "reference", "target", "single"] {
            assert_eq!(text(sftmix_stage_name(stage_of(word) as c_int)), word);
        }
        assert_eq!(text(sftmix_half_name(sftmix_half::Confident as c_int)), Half::Confident.as_str());
        for number in [-1, 98, i32::MAX] {
            assert_eq!(text(sftmix_status_name(number)), "unknown");
        }
    }
}
