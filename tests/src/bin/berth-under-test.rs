//! The binary that the process tests start: `berth` itself, built with the tests so that they can find it.

use std::process::ExitCode;

fn main() -> ExitCode {
    berth::main_with(std::env::args_os())
}
