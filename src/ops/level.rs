//! The instructions of an engine: the setting `simd`, and what the processor has.

use crate::config::text_enum;
use crate::error::{Error, Result};
use crate::kernels::cpu::product::units_available;
use crate::kernels::cpu::simd::Level;

text_enum! {
    /// Up to which instructions the kernels go; each has those before it. Another level rounds sums otherwise.
    Simd {
        /// All that the processor has.
        Auto = "auto",
        /// What every processor of its kind has: SSE2 on x86-64, NEON on Arm.
        Base = "base",
        /// AVX2 and FMA.
        Avx2 = "avx2",
        /// AVX-512 F.
        Avx512 = "avx512",
        /// AVX-512 with VNNI, for quantised generation.
        Avx512Vnni = "avx512-vnni",
        /// Matrix units (AMX) too, for products with bf16 weights.
        Amx = "amx",
    }
}

/// The level that a setting means: the kernels', and whether matrix units may be used beside them.
///
/// # Errors
/// [`Error::InvalidConfig`] where the processor has not got it.
pub(super) fn level_of(simd: Simd) -> Result<(Level, bool)> {
    let level = match simd {
        Simd::Auto => return Ok((Level::best(), units_available())),
        Simd::Base => Level::Base,
        Simd::Avx2 => Level::Avx2,
        Simd::Avx512 => Level::Avx512,
        Simd::Avx512Vnni | Simd::Amx => Level::Vnni,
    };
    if level > Level::best() || simd == Simd::Amx && !units_available() {
        let has: Vec<&str> = available_levels().into_iter().map(Simd::as_str).collect();
        return Err(Error::config("simd", format!("the processor has {}, not {simd}", has.join(", "))));
    }
    Ok((level, simd == Simd::Amx))
}

/// The levels that this processor has, the lowest first.
pub fn available_levels() -> Vec<Simd> {
    let kernels = Level::ALL.into_iter().filter(|level| *level <= Level::best()).map(Simd::from);
    kernels.chain(units_available().then_some(Simd::Amx)).collect()
}

impl From<Level> for Simd {
    fn from(level: Level) -> Simd {
        match level {
            Level::Base => Simd::Base,
            Level::Avx2 => Simd::Avx2,
            Level::Avx512 => Simd::Avx512,
            Level::Vnni => Simd::Avx512Vnni,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::simd::level;
    use crate::ops::{Engine, EngineOptions, Workers};

    #[test]
    fn an_engine_computes_on_the_level_that_was_asked_for() {
        for simd in available_levels() {
            let mut engine = Engine::new(EngineOptions { simd, threads: Some(2), ..Default::default() }).unwrap();
            let want = level_of(simd).unwrap();
            assert_eq!((engine.run(|| Ok(level())).unwrap(), engine.matrix_units()), want, "{simd}");
            engine.set_threads(1).unwrap();
            assert_eq!(engine.run(|| Ok(level())).unwrap(), want.0, "{simd}, other threads");
            let off = EngineOptions { simd, matrix_units: false, ..Default::default() };
            match Engine::new(off) {
                Ok(engine) => assert!(!engine.matrix_units() && simd != Simd::Amx),
                Err(e) => assert!(simd == Simd::Amx && e.to_string().contains("matrix_units"), "{e}"),
            }
        }
        let auto = Engine::new(EngineOptions::default()).unwrap();
        assert_eq!(auto.run(|| Ok(level())).unwrap(), Level::best());
    }

    #[test]
    fn what_the_processor_lacks_is_refused() {
        let have = available_levels();
        let lacked = [Simd::Avx2, Simd::Avx512, Simd::Avx512Vnni, Simd::Amx].into_iter().find(|l| !have.contains(l));
        let Some(lacked) = lacked else { return println!("this processor has every level") };
        let e = Engine::new(EngineOptions { simd: lacked, ..Default::default() }).unwrap_err().to_string();
        assert!(e.starts_with("invalid setting simd: the processor has base") && e.ends_with(lacked.as_str()), "{e}");
    }

    #[test]
    fn shared_workers_are_of_one_level() {
        let shared = || Some(Workers::start(1, Level::best()).unwrap());
        let on = |simd| Engine::new(EngineOptions { workers: shared(), simd, ..Default::default() });
        assert!(on(Simd::Auto).is_ok());
        if Level::best() > Level::Base {
            let e = on(Simd::Base).unwrap_err().to_string();
            assert!(e.contains("simd") && e.contains("shared"), "{e}");
        }
    }
}
