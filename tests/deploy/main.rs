//! The example files in `deploy/` are true: the configuration parses, says the defaults, and leaves nothing out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use berth_server::config::{Config, Settings};

const EXAMPLE: &str = include_str!("../../deploy/berth.toml");
const UNIT: &str = include_str!("../../deploy/berth.service");
const COMPOSE: &str = include_str!("../../deploy/compose.yaml");
const DOCKERFILE: &str = include_str!("../../deploy/Dockerfile");

#[test]
fn the_example_configuration_says_the_defaults() {
    let example = Settings::from_toml(EXAMPLE).expect("the example parses");
    let told = Config::from_settings([example]).expect("the example is allowed");
    let default = Config::from_settings([]).expect("no settings at all are allowed");
    assert_eq!(told, default);
}

#[test]
fn the_example_configuration_leaves_no_setting_out() {
    // Settings without a default stand behind a #, without a space after it.
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| {
            line.strip_prefix('#').filter(|rest| rest.starts_with(char::is_alphabetic)).unwrap_or(line)
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let settings = Settings::from_toml(&uncommented).expect("the whole example parses");
    let shown = format!("{settings:?}");
    assert!(!shown.contains("None"), "the example leaves settings out: {shown}");
}

#[test]
fn the_image_and_the_unit_name_what_the_binary_knows() {
    // Flags and variables that the files use exist, so that a renamed flag is noticed here.
    let help = berth_flags();
    for line in COMPOSE.lines().map(str::trim).filter_map(|line| line.strip_prefix("- --")) {
        let flag = line.split('=').next().unwrap();
        assert!(
            help.contains(&format!("--{flag}")),
            "`--{flag}` of compose.yaml is no flag of `berth server`"
        );
    }
    let variables = COMPOSE.lines().chain(DOCKERFILE.lines()).flat_map(|line| {
        line.split(|c: char| !c.is_ascii_uppercase() && c != '_').filter(|word| word.starts_with("BERTH_"))
    });
    for variable in variables {
        assert!(help.contains(variable), "`{variable}` is no variable of `berth server`");
    }
    let command = UNIT.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
    for flag in command.split(' ').filter(|word| word.starts_with("--")) {
        assert!(help.contains(flag), "`{flag}` of berth.service is no flag of `berth server`");
    }
}

/// What `berth server --help` says.
fn berth_flags() -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_berth_under_test"))
        .args(["server", "--help"])
        .output()
        .expect("berth runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("help is text")
}
