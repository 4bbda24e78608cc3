//! The setting `device`.

use serde::{Deserialize, Serialize};

/// Which device is asked for: `auto`, `cpu`, `cuda`, `cuda:1`, `metal`, `portable`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum DeviceSetting {
    /// A GPU when this build has the code for one and it works, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
    /// The Metal device.
    Metal,
    /// The CPU by what a GPU runs, candle's tensor operations: slow, to compare with.
    Portable,
}

impl std::str::FromStr for DeviceSetting {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':').unwrap_or((text, "0")) {
            ("auto", _) if text == "auto" => Ok(DeviceSetting::Auto),
            ("cpu", _) if text == "cpu" => Ok(DeviceSetting::Cpu),
            ("metal", _) if text == "metal" => Ok(DeviceSetting::Metal),
            ("portable", _) if text == "portable" => Ok(DeviceSetting::Portable),
            ("cuda", n) if n.bytes().all(|b| b.is_ascii_digit()) && n.parse::<u16>().is_ok() => {
                Ok(DeviceSetting::Cuda(n.parse::<u16>().unwrap_or(0).into()))
            }
            _ => Err(format!("expected auto, cpu, cuda, cuda:N, metal or portable, found {text:?}")),
        }
    }
}

impl TryFrom<String> for DeviceSetting {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceSetting> for String {
    fn from(d: DeviceSetting) -> String {
        d.to_string()
    }
}

impl std::fmt::Display for DeviceSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceSetting::Auto => f.write_str("auto"),
            DeviceSetting::Cpu => f.write_str("cpu"),
            DeviceSetting::Cuda(0) => f.write_str("cuda"),
            DeviceSetting::Cuda(n) => write!(f, "cuda:{n}"),
            DeviceSetting::Metal => f.write_str("metal"),
            DeviceSetting::Portable => f.write_str("portable"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_text_and_back() {
        for text in ["auto", "cpu", "cuda", "cuda:1", "metal", "portable"] {
            assert_eq!(text.parse::<DeviceSetting>().unwrap().to_string(), text);
        }
        assert_eq!("cuda:0".parse::<DeviceSetting>().unwrap(), DeviceSetting::Cuda(0));
        for bad in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:99999", "cpu:0", "metal:1", "auto:2", "CUDA"] {
            assert!(bad.parse::<DeviceSetting>().is_err(), "{bad}");
        }
        let json = serde_json::to_string(&DeviceSetting::Cuda(2)).unwrap();
        assert_eq!((json.as_str(), serde_json::from_str(&json).unwrap()), ("\"cuda:2\"", DeviceSetting::Cuda(2)));
        assert!(serde_json::from_str::<DeviceSetting>("\"tpu\"").unwrap_err().to_string().contains("tpu"));
    }
}
