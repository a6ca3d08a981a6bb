//! The binary `berth`.

use std::process::ExitCode;

fn main() -> ExitCode {
    berth::main_with(std::env::args_os())
}
