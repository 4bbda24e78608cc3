//! Names the shared library's interface, so that a program is not started with a library of another: the soname, of which
//! `build.sh` makes the links.

/// One for every change that breaks programs that are compiled already.
const INTERFACE: u32 = 0;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("linux") => println!("cargo::rustc-link-arg-cdylib=-Wl,-soname,libsftmix.so.{INTERFACE}"),
        Ok("macos") => {
            println!("cargo::rustc-link-arg-cdylib=-Wl,-install_name,@rpath/libsftmix.{INTERFACE}.dylib");
        }
        _ => {}
    }
}
