//! OpenBLAS's sgemm, where the library is found at run time: a second opinion on what the machine can do.

use std::ffi::c_int;

use libloading::Library;

/// `cblas_sgemm`.
type Sgemm = unsafe extern "C" fn(
    order: c_int,
    trans_a: c_int,
    trans_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f32,
    a: *const f32,
    lda: c_int,
    b: *const f32,
    ldb: c_int,
    beta: f32,
    c: *mut f32,
    ldc: c_int,
);
type SetThreads = unsafe extern "C" fn(c_int);

const NAMES: [&str; 6] = [
    "libopenblas.so.0",
    "libopenblas.so",
    "libopenblas.0.dylib",
    "libopenblas.dylib",
    "libopenblas.dll",
    "openblas.dll",
];
const ROW_MAJOR: c_int = 101;
const NO_TRANS: c_int = 111;
const TRANS: c_int = 112;

/// OpenBLAS in use.
pub(crate) struct OpenBlas {
    sgemm: Sgemm,
    // The function lives as long as its library.
    _library: Library,
}

impl OpenBlas {
    /// Looks the library up by the names the systems' loaders know, and gives it `threads` threads.
    pub fn load(threads: usize) -> Option<OpenBlas> {
        // SAFETY: loading runs the library's own start-up code; the two functions have the types of
        // OpenBLAS's cblas.h with 32-bit integers (the 64-bit build has other names).
        unsafe {
            let library = NAMES.iter().find_map(|n| Library::new(*n).ok())?;
            let sgemm = *library.get::<Sgemm>(b"cblas_sgemm\0").ok()?;
            let set_threads = *library.get::<SetThreads>(b"openblas_set_num_threads\0").ok()?;
            set_threads(threads as c_int);
            Some(OpenBlas { sgemm, _library: library })
        }
    }

    /// `y[m,n] = x[m,k]·w`, with w `[n,k]` transposed or `[k,n]` as it is.
    pub fn product(&self, y: &mut [f32], x: &[f32], w: &[f32], (m, n, k): (usize, usize, usize), transposed: bool) {
        assert!(y.len() >= m * n && x.len() >= m * k && w.len() >= n * k);
        let (trans, ldw) = if transposed { (TRANS, k) } else { (NO_TRANS, n) };
        let [m, n, k, ldw] = [m, n, k, ldw].map(|v| v as c_int);
        // SAFETY: the slices hold the matrices, as asserted.
        unsafe {
            (self.sgemm)(
                ROW_MAJOR,
                NO_TRANS,
                trans,
                m,
                n,
                k,
                1.0,
                x.as_ptr(),
                k,
                w.as_ptr(),
                ldw,
                0.0,
                y.as_mut_ptr(),
                n,
            )
        }
    }
}
