use super::*;

fn flags(edit: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings::default();
    edit(&mut settings);
    settings
}

#[test]
fn nothing_given_is_a_single_node_on_loopback() {
    let config = Config::from_settings([]).unwrap();
    assert_eq!(config.start, Start::Single);
    assert_eq!(config.data_dir, PathBuf::from("berth-data"));
    assert!(
        [config.listen, config.peer_listen, config.http_listen].iter().all(|addr| addr.ip().is_loopback())
    );
}

#[test]
fn the_earlier_source_wins() {
    let file =
        Settings::from_toml("node_name = \"file\"\nlisten = \"127.0.0.1:1\"\n[limits]\nbulk = 3").unwrap();
    let config = Config::from_settings([flags(|s| s.node_name = Some("flag".into())), file]).unwrap();
    assert_eq!((config.node_name.as_str(), config.listen.port(), config.limits.bulk), ("flag", 1, 3));
}

#[test]
fn a_flag_to_join_overrides_the_files_bootstrap() {
    let file = Settings::from_toml("bootstrap = \"n1=127.0.0.1:1\"").unwrap();
    let config = Config::from_settings([flags(|s| s.join = Some("127.0.0.1:9".into())), file]).unwrap();
    assert_eq!(config.start, Start::Join(vec!["127.0.0.1:9".into()]));
}

#[test]
fn unknown_settings_are_refused() {
    let problem = Settings::from_toml("node_nam = \"x\"").unwrap_err();
    assert!(problem.contains("node_nam"), "{problem}");
}

#[test]
fn refusals_name_setting_and_value() {
    let cases: [(Settings, &str, &str); 7] = [
        (flags(|s| s.listen = Some("0.0.0.0:1".into())), "listen", "insecure"),
        (flags(|s| s.listen = Some("nowhere".into())), "listen", "IP:port"),
        (flags(|s| s.bootstrap = Some("n1".into())), "bootstrap", "NAME=PEER_ADDRESS"),
        (flags(|s| s.bootstrap = Some("n2=127.0.0.1:1".into())), "node_name", "not in the bootstrap list"),
        (flags(|s| s.join = Some("host".into())), "join", "host:port"),
        (flags(|s| s.raft.heartbeat_ms = Some(90)), "raft.heartbeat_ms", "half"),
        (flags(|s| s.limits.lookups = Some(0)), "limits.lookups", "1 to"),
    ];
    for (settings, setting, part) in cases {
        let text = Config::from_settings([settings]).unwrap_err().to_string();
        assert!(text.contains(setting) && text.contains(part), "{text}");
    }
}

#[test]
fn an_unspecified_address_needs_an_advertised_one() {
    let open = |s: &mut Settings| (s.listen, s.insecure) = (Some("0.0.0.0:7400".into()), Some(true));
    assert!(Config::from_settings([flags(open)]).is_err());
    let told = flags(|s| {
        open(s);
        s.advertise = Some("berth-1.example:7400".into());
    });
    assert!(Config::from_settings([told]).is_ok());
}

#[test]
fn a_file_that_is_wrong_is_told_by_line_and_setting_and_no_value_of_it() {
    for (text, told) in [
        ("node_name = 'n'\nlisten = 1", "line 2: `listen` is not what it may be; expected a string"),
        (
            "[azure]\nhook_secret = ['topsecret']",
            "line 2: `hook_secret` is not what it may be; expected a string",
        ),
        (
            "[azure]\nhub_credentials = 'topsecret'",
            "line 2: `hub_credentials` is not what it may be; expected a map",
        ),
        ("[limits]\nbulk = 'topsecret, expected a'", "line 2: `bulk` is not what it may be; expected usize"),
        ("[azure]\nhook_secret = 'topsecret", "line 2: `hook_secret` is not what it may be; expected `'`"),
        ("[azure]\ntopsecret Text", "line 2: expected TOML"),
        ("[azure]\nhook_secrets = 'topsecret'", "line 2: unknown field `hook_secrets`, expected one of"),
    ] {
        let problem = Settings::from_toml(text).unwrap_err();
        assert!(problem.starts_with(told) && !problem.contains("topsecret"), "{problem}");
    }
    let hub = "[azure.hub_credentials]\n'HostName=h;SharedAccessKey=topsecret' = 'env:A'";
    let problem = Config::from_settings([Settings::from_toml(hub).unwrap()]).unwrap_err().to_string();
    assert!(problem.contains("azure.hub_credentials") && !problem.contains("topsecret"), "{problem}");
}

#[test]
fn a_secret_in_the_place_of_its_name_is_refused_and_not_repeated() {
    let secret = "the-secret-itself-0123456789";
    let text = format!("[azure]\nhook_secret = \"{secret}\"");
    let told = Config::from_settings([Settings::from_toml(&text).unwrap()]).unwrap_err().to_string();
    assert!(told.contains("azure.hook_secret") && told.contains("env:NAME"), "{told}");
    assert!(!told.contains(secret), "{told}");
}
