//! Texts and structures over the border.

use std::ffi::{c_char, CStr, CString};

use serde::Serialize;

use crate::fault::{c_text, Fail, Result};

/// What an integer of an options structure is that was not set; a number with a fraction is NaN, a text NULL.
pub const SFTMIX_UNSET: i64 = -1;

/// A structure that begins with its size, which the caller says: a later library takes an earlier, smaller one.
pub trait Sized: Copy {
    const NAME: &'static str;
    /// Nothing set.
    fn unset() -> Self;
    /// The size that the caller said.
    fn size_mut(&mut self) -> &mut usize;
    /// Frees what it holds, and holds nothing then.
    ///
    /// # Safety
    /// What it holds was made here.
    unsafe fn free(&mut self) {}
}

/// The size that a structure says it has.
unsafe fn size_of_given<T: Sized>(p: *const T) -> Result<usize> {
    if p.is_null() {
        return Err(Fail::argument(T::NAME, "it is NULL"));
    }
    if !p.is_aligned() {
        return Err(Fail::argument(T::NAME, "it is not aligned"));
    }
    // SAFETY: whatever its size is, it begins with it.
    let size = unsafe { *p.cast::<usize>() };
    if size < 2 * std::mem::size_of::<usize>() || size % std::mem::align_of::<T>() != 0 {
        let init = T::NAME;
        return Err(Fail::argument(T::NAME, &format!("struct_size is {size}: fill it with {init}_init first")));
    }
    Ok(size)
}

/// Options as the caller gave them, over those of which nothing is set.
pub unsafe fn read<T: Sized>(p: *const T) -> Result<T> {
    let mut out = T::unset();
    // SAFETY: checked there.
    let size = unsafe { size_of_given(p)? };
    if size > std::mem::size_of::<T>() {
        let reason = format!("struct_size is {size}: it is of a later version than the library");
        return Err(Fail::argument(T::NAME, &reason));
    }
    // SAFETY: so many bytes are there, and the type takes any.
    unsafe { std::ptr::copy_nonoverlapping(p.cast::<u8>(), (&raw mut out).cast::<u8>(), size) };
    *out.size_mut() = std::mem::size_of::<T>();
    Ok(out)
}

/// The same, where NULL sets nothing.
pub unsafe fn read_or_unset<T: Sized>(p: *const T) -> Result<T> {
    // SAFETY: as there.
    if p.is_null() {
        Ok(T::unset())
    } else {
        unsafe { read(p) }
    }
}

/// Whether a structure can be filled; before anything is done that it should be told of.
pub unsafe fn can_fill<T: Sized>(p: *const T) -> Result<()> {
    // SAFETY: checked there.
    unsafe { size_of_given(p) }.map(drop)
}

/// Fills what the caller has room for.
pub unsafe fn fill<T: Sized>(p: *mut T, mut value: T) -> Result<()> {
    // SAFETY: checked there.
    let size = unsafe { size_of_given(p)? };
    *value.size_mut() = size;
    let size = size.min(std::mem::size_of::<T>());
    // SAFETY: so many bytes are the caller's. What it has no place for, it cannot free.
    unsafe {
        std::ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), p.cast::<u8>(), size);
        let none = T::unset();
        std::ptr::copy_nonoverlapping((&raw const none).cast::<u8>(), (&raw mut value).cast::<u8>(), size);
        value.free();
    }
    Ok(())
}

/// As [`can_fill`], where NULL is not filled.
pub unsafe fn check<T: Sized>(out: *const T) -> Result<()> {
    // SAFETY: passed on.
    if out.is_null() {
        Ok(())
    } else {
        unsafe { can_fill(out) }
    }
}

/// As [`fill`], where NULL is not filled.
pub unsafe fn put<T: Sized>(out: *mut T, value: T) -> Result<()> {
    // SAFETY: passed on.
    if out.is_null() {
        Ok(())
    } else {
        unsafe { fill(out, value) }
    }
}

/// Gives JSON out, unless there is no place for it.
pub unsafe fn put_json(out: *mut *mut c_char, text: String) {
    // SAFETY: it is NULL or the caller's.
    if let Some(out) = unsafe { out.as_mut() } {
        *out = given_out(&text);
    }
}

/// Sets up what the caller has of a structure, for the `_init` functions: it was compiled against a header whose structure
/// may be smaller than the library's, or larger. What lies beyond the library's is zero. NULL is left.
pub unsafe fn init<T: Sized>(p: *mut T, size: usize) {
    if p.is_null() || !p.is_aligned() || size < std::mem::size_of::<usize>() {
        return;
    }
    let mut value = T::unset();
    *value.size_mut() = size;
    let known = size.min(std::mem::size_of::<T>());
    let (from, to) = ((&raw const value).cast::<u8>(), p.cast::<u8>());
    // SAFETY: so many bytes are the caller's.
    unsafe {
        std::ptr::copy_nonoverlapping(from, to, known);
        to.add(known).write_bytes(0, size - known);
    }
}

/// Frees what a structure holds, of the bytes that the caller has and no others. One that was not set up, or NULL, is left.
pub unsafe fn release<T: Sized>(p: *mut T) {
    // SAFETY: checked there.
    let Ok(size) = (unsafe { size_of_given(p) }) else { return };
    let size = size.min(std::mem::size_of::<T>());
    let mut held = T::unset();
    // SAFETY: so many bytes are the caller's, and what lies beyond holds nothing.
    unsafe {
        std::ptr::copy_nonoverlapping(p.cast::<u8>(), (&raw mut held).cast::<u8>(), size);
        held.free();
        std::ptr::copy_nonoverlapping((&raw const held).cast::<u8>(), p.cast::<u8>(), size);
    }
}

/// A text that must be there.
pub unsafe fn text<'a>(p: *const c_char, name: &str) -> Result<&'a str> {
    // SAFETY: as there.
    unsafe { maybe_text(p, name) }?.ok_or_else(|| Fail::argument(name, "it is NULL"))
}

/// A text, or NULL for none.
pub unsafe fn maybe_text<'a>(p: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if p.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's text ends in a NUL.
    let text = unsafe { CStr::from_ptr(p) }.to_str();
    text.map(Some).map_err(|e| Fail::argument(name, &format!("it is not UTF-8 behind byte {}", e.valid_up_to())))
}

/// Where a result goes that must have a place.
pub unsafe fn place<'a, T>(p: *mut T, name: &str) -> Result<&'a mut T> {
    if !p.is_null() && !p.is_aligned() {
        return Err(Fail::argument(name, "it is not aligned"));
    }
    // SAFETY: it is NULL or the caller's.
    unsafe { p.as_mut() }.ok_or_else(|| Fail::argument(name, "it is NULL"))
}

/// A text that the caller frees.
pub fn given_out(text: &str) -> *mut c_char {
    c_text(text).into_raw()
}

/// As JSON on one line.
pub fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Fail::new(crate::fault::sftmix_status::Other, e.to_string()))
}

/// Frees a text that [`given_out`] made, once.
pub unsafe fn take_back(text: &mut *mut c_char) {
    let text = std::mem::replace(text, std::ptr::null_mut());
    if !text.is_null() {
        // SAFETY: it was made there and is forgotten here.
        drop(unsafe { CString::from_raw(text) });
    }
}

/// The same of several.
pub unsafe fn take_all_back<const N: usize>(texts: [&mut *mut c_char; N]) {
    for text in texts {
        // SAFETY: passed on.
        unsafe { take_back(text) };
    }
}

/// Frees a text that a function gave out and whose description says so. NULL is fine. From any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sftmix_string_free(mut text: *mut c_char) {
    // SAFETY: the caller had it from here.
    unsafe { take_back(&mut text) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a later library has it: a text more than the earlier one that the caller knows.
    #[repr(C)]
    #[derive(Clone, Copy, Debug)]
    struct Later {
        struct_size: usize,
        number: i64,
        text: *mut c_char,
        added: *mut c_char,
    }

    #[repr(C)]
    struct Earlier {
        struct_size: usize,
        number: i64,
        text: *mut c_char,
        /// What the caller has there is its own business.
        canary: usize,
    }

    const KNOWN: usize = std::mem::offset_of!(Earlier, canary);

    impl Sized for Later {
        const NAME: &'static str = "later";

        fn unset() -> Self {
            let none = std::ptr::null_mut();
            Later { struct_size: std::mem::size_of::<Self>(), number: SFTMIX_UNSET, text: none, added: none }
        }

        fn size_mut(&mut self) -> &mut usize {
            &mut self.struct_size
        }

        unsafe fn free(&mut self) {
            // SAFETY: passed on.
            unsafe { take_all_back([&mut self.text, &mut self.added]) };
        }
    }

    #[test]
    fn an_earlier_structure_is_written_as_far_as_it_goes() {
        let mut e = Earlier { struct_size: 7, number: 7, text: std::ptr::null_mut(), canary: 0xabcd };
        let p = (&raw mut e).cast::<Later>();
        unsafe { init(p, KNOWN) };
        assert_eq!((e.struct_size, e.number, e.canary), (KNOWN, SFTMIX_UNSET, 0xabcd));
        unsafe { fill(p, Later { number: 3, text: given_out("a"), added: given_out("b"), ..Later::unset() }).unwrap() };
        assert_eq!((e.struct_size, e.number, e.canary), (KNOWN, 3, 0xabcd));
        unsafe { release(p) };
        unsafe { release(p) };
        assert_eq!((e.struct_size, e.text.is_null(), e.canary), (KNOWN, true, 0xabcd));
        e.struct_size = 0;
        e.text = std::ptr::without_provenance_mut(8);
        let p = (&raw mut e).cast::<Later>();
        unsafe { release(p) };
        unsafe { release(std::ptr::null_mut::<Later>()) };
    }

    #[test]
    fn a_later_structure_is_zero_beyond() {
        let mut room = [usize::MAX; 8];
        let p = room.as_mut_ptr().cast::<Later>();
        unsafe { init(p, 6 * std::mem::size_of::<usize>()) };
        assert_eq!(room, [48, usize::MAX, 0, 0, 0, 0, usize::MAX, usize::MAX]);
        assert!(unsafe { read(p) }.unwrap_err().message.contains("later version"));
        unsafe { init(p, 7) };
        assert_eq!(room[0], 48);
    }
}
