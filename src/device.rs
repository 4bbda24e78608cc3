//! Where the engine runs: the only place that knows which back ends a build has.
//!
//! The CPU runs the fused form, every GPU the portable one (candle's tensor operations). A GPU is taken
//! into use only after it has computed a small product right: a driver that is there and does not work is
//! told from one that works before a model is loaded onto it.

use candle_core::{DType, Device, DeviceLocation, Tensor};

use crate::config::DeviceSetting;
use crate::error::{Error, Result};

/// Which implementation of the operations runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Slices, gemm, SIMD: CPU only.
    Fused,
    /// candle tensor operations: any device; the oracle of the fused form.
    Portable,
}

/// A device that works.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The device.
    pub device: Device,
    /// What runs on it: the fused form on the CPU, the portable one elsewhere.
    pub form: Form,
    /// Why `auto` went on with the CPU: what this build lacks, or what each GPU said.
    pub instead: Option<String>,
}

impl DeviceSetting {
    /// Takes the device into use.
    ///
    /// # Errors
    /// [`Error::Device`] when the one that is named is not in this build, is absent or does not work.
    /// `auto` has no error: the CPU is always there.
    #[doc(hidden)]
    pub fn open(self) -> Result<Chosen> {
        let taken = |device, form| Ok(Chosen { device, form, instead: None });
        match self {
            DeviceSetting::Cpu => taken(Device::Cpu, Form::Fused),
            DeviceSetting::Portable => taken(Device::Cpu, Form::Portable),
            DeviceSetting::Cuda(_) | DeviceSetting::Metal => taken(self.gpu()?, Form::Portable),
            DeviceSetting::Auto => {
                let built: Vec<DeviceSetting> =
                    [(cfg!(feature = "cuda"), DeviceSetting::Cuda(0)), (cfg!(feature = "metal"), DeviceSetting::Metal)]
                        .into_iter()
                        .filter_map(|(built, d)| built.then_some(d))
                        .collect();
                let mut said = Vec::new();
                for gpu in &built {
                    match gpu.gpu() {
                        Ok(device) => return taken(device, Form::Portable),
                        Err(e) => said.push(e.to_string()),
                    }
                }
                let instead = match said.is_empty() {
                    true => "this build has no GPU code (features cuda, metal)".into(),
                    false => said.join("; "),
                };
                Ok(Chosen { device: Device::Cpu, form: Form::Fused, instead: Some(instead) })
            }
        }
    }

    /// A GPU that has computed something right.
    fn gpu(self) -> Result<Device> {
        let fail = |reason: String| Error::Device { device: self.to_string(), reason };
        let lacks = |feature: &str| fail(format!("this build has no code for it: build with --features {feature}"));
        match self {
            DeviceSetting::Cuda(_) if !cfg!(feature = "cuda") => return Err(lacks("cuda")),
            DeviceSetting::Metal if !cfg!(feature = "metal") => return Err(lacks("metal")),
            _ => {}
        }
        let open = move || match self {
            DeviceSetting::Cuda(n) => Device::new_cuda(n),
            _ => Device::new_metal(0),
        };
        // The back ends' bindings panic where a library of the driver is absent or of another version.
        let caught = std::panic::catch_unwind(move || open().and_then(|d| probe(&d).map(|right| (d, right))));
        match caught {
            Ok(Ok((device, true))) => Ok(device),
            Ok(Ok((_, false))) => Err(fail("it computed a product of two matrices wrong".into())),
            Ok(Err(e)) => Err(fail(first_line(&e.to_string()))),
            Err(panic) => Err(fail(first_line(crate::error::panic_text(&*panic)))),
        }
    }
}

/// Whether a product of small whole numbers, which every order of summation gives exactly, comes out right.
fn probe(device: &Device) -> candle_core::Result<bool> {
    let (m, k, n) = (3usize, 5, 4);
    let a: Vec<f32> = (0..m * k).map(|i| i as f32 - 7.0).collect();
    let b: Vec<f32> = (0..k * n).map(|i| 3.0 - (i % 7) as f32).collect();
    let want = (0..m * n).map(|i| (0..k).map(|p| a[i / n * k + p] * b[p * n + i % n]).sum::<f32>());
    let want: Vec<f32> = want.collect();
    let (a, b) = (Tensor::from_vec(a, (m, k), device)?, Tensor::from_vec(b, (k, n), device)?);
    let got = a.matmul(&b)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(got == want)
}

/// What of a back end's message a user can act on; the rest is a stack trace.
fn first_line(text: &str) -> String {
    // What the stand-in of the driver's library answers (scripts/cuda-shims.py).
    if text.contains("STUB_LIBRARY") {
        return "NVIDIA's driver was not found (libcuda.so.1)".into();
    }
    text.lines().next().unwrap_or("no reason given").trim().to_string()
}

/// The setting that gives this device and form.
pub(crate) fn setting(device: &Device, form: Form) -> DeviceSetting {
    match device.location() {
        DeviceLocation::Cpu if form == Form::Portable => DeviceSetting::Portable,
        DeviceLocation::Cpu => DeviceSetting::Cpu,
        DeviceLocation::Cuda { gpu_id } => DeviceSetting::Cuda(gpu_id),
        DeviceLocation::Metal { .. } => DeviceSetting::Metal,
    }
}

/// Bytes of the device's memory in use by all processes, where it tells: CUDA does.
pub fn used_bytes(device: &Device) -> Option<u64> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device {
        use candle_core::cuda_backend::cudarc::driver::result::mem_get_info;
        cuda.cuda_stream().context().bind_to_thread().ok()?;
        return mem_get_info().ok().map(|(free, total)| (total - free) as u64);
    }
    let _ = device;
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_there_and_computes() {
        let cpu = DeviceSetting::Cpu.open().unwrap();
        assert!(cpu.device.is_cpu() && cpu.instead.is_none() && probe(&cpu.device).unwrap());
        assert_eq!((setting(&cpu.device, cpu.form), cpu.form), (DeviceSetting::Cpu, Form::Fused));
        let portable = DeviceSetting::Portable.open().unwrap();
        assert_eq!(setting(&portable.device, portable.form), DeviceSetting::Portable);
        let auto = DeviceSetting::Auto.open().unwrap();
        assert_eq!(auto.device.is_cpu(), auto.instead.is_some());
    }

    #[test]
    fn what_the_build_lacks_is_named() {
        for (device, built) in [("cuda:3", cfg!(feature = "cuda")), ("metal", cfg!(feature = "metal"))] {
            if !built {
                let e = device.parse::<DeviceSetting>().unwrap().open().unwrap_err().to_string();
                let feature = device.split(':').next().unwrap();
                assert!(e.starts_with(&format!("{device}: ")) && e.ends_with(&format!("--features {feature}")), "{e}");
            }
        }
    }
}
