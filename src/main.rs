//! The program `sftmix`: a client of the library, in `cli`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
