//! The types that merged models are stored in.

use half::{bf16, f16};

use crate::formats::dtype::Dtype;

/// A floating-point type of a safetensors file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Precision {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    BF16,
}

impl Precision {
    const ALL: [Precision; 3] = [Precision::F32, Precision::F16, Precision::BF16];

    /// Every type, as written in settings.
    pub const NAMES: &'static [&'static str] = &["f32", "f16", "bf16"];

    /// The type as written in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::BF16 => "bf16",
        }
    }

    /// The type as a `config.json` names it.
    pub(super) fn hugging_face(self) -> &'static str {
        match self {
            Precision::F32 => "float32",
            Precision::F16 => "float16",
            Precision::BF16 => "bfloat16",
        }
    }

    pub(super) fn safetensors(self) -> safetensors::Dtype {
        match self {
            Precision::F32 => safetensors::Dtype::F32,
            Precision::F16 => safetensors::Dtype::F16,
            Precision::BF16 => safetensors::Dtype::BF16,
        }
    }

    pub(super) fn of_safetensors(dtype: safetensors::Dtype) -> Option<Precision> {
        Precision::ALL.into_iter().find(|p| p.safetensors() == dtype)
    }

    fn dtype(self) -> Dtype {
        match self {
            Precision::F32 => Dtype::F32,
            Precision::F16 => Dtype::F16,
            Precision::BF16 => Dtype::BF16,
        }
    }

    pub(super) fn of(dtype: Dtype) -> Option<Precision> {
        Precision::ALL.into_iter().find(|p| p.dtype() == dtype)
    }

    /// Bytes of a number.
    pub(super) fn size(self) -> usize {
        match self {
            Precision::F32 => 4,
            Precision::F16 | Precision::BF16 => 2,
        }
    }

    /// Half the distance from 1 to the next number.
    pub(super) fn unit(self) -> f32 {
        let distance = match self {
            Precision::F32 => f32::EPSILON,
            Precision::F16 => f16::EPSILON.to_f32(),
            Precision::BF16 => bf16::EPSILON.to_f32(),
        };
        distance / 2.0
    }

    /// Numbers as stored, to f32.
    pub(super) fn decode(self, bytes: &[u8], out: &mut [f32]) {
        self.dtype().decode(bytes, out);
    }

    /// Appends numbers as they are stored, rounded to the nearest.
    pub(super) fn encode(self, numbers: &[f32], out: &mut Vec<u8>) -> crate::error::Result<()> {
        self.dtype().encode(numbers, out)
    }

    /// Whether a finite number becomes infinite.
    pub(super) fn overflows(self, number: f32) -> bool {
        number.is_finite()
            && match self {
                Precision::F32 => false,
                Precision::F16 => f16::from_f32(number).is_infinite(),
                Precision::BF16 => bf16::from_f32(number).is_infinite(),
            }
    }
}

impl std::str::FromStr for Precision {
    type Err = String;
    fn from_str(s: &str) -> Result<Precision, String> {
        let found = Precision::ALL.into_iter().find(|p| p.as_str() == s);
        found.ok_or_else(|| format!("expected one of {}, found {s:?}", Precision::NAMES.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_the_unit() {
        for p in Precision::ALL {
            assert_eq!((p.as_str().parse(), Precision::of_safetensors(p.safetensors())), (Ok(p), Some(p)));
            let (numbers, mut bytes) = ([1.0 + 1.4 * p.unit(), 1.0 + 0.4 * p.unit(), -3.0], Vec::new());
            p.encode(&numbers, &mut bytes).unwrap();
            let mut back = [0.0; 3];
            assert_eq!(bytes.len(), 3 * p.size());
            p.decode(&bytes, &mut back);
            assert_eq!(back, [1.0 + 2.0 * p.unit(), 1.0, -3.0], "{p:?}");
        }
        assert!(Precision::F16.overflows(7e4) && !Precision::F16.overflows(6e4));
        assert!(Precision::BF16.overflows(f32::MAX) && !Precision::BF16.overflows(1e38));
        assert!(!Precision::F32.overflows(f32::MAX) && !Precision::F16.overflows(f32::INFINITY));
        assert!("q4".parse::<Precision>().is_err() && Precision::of_safetensors(safetensors::Dtype::I64).is_none());
    }
}
