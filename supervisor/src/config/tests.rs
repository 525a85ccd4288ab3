//! Layers, origins and refusals, with an environment of our own and files in a temporary folder.

use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn environment(root: &Path, euid: u32, vars: &[(&str, &str)]) -> Environment {
    Environment {
        vars: vars.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        euid,
        cwd: "/here".into(),
        cores: 3,
        root: root.to_owned(),
    }
}

fn root(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    root
}

fn origin(loaded: &Loaded, key: &str) -> String {
    let row = loaded.rows.iter().find(|row| row.key == key);
    row.unwrap_or_else(|| panic!("no row {key}")).origin.to_string()
}

fn value<'a>(loaded: &'a Loaded, key: &str) -> &'a str {
    &loaded.rows.iter().find(|row| row.key == key).unwrap().value
}

#[test]
fn defaults_of_root() {
    let root = root(&[]);
    let loaded = load(&Flags::default(), &environment(root.path(), 0, &[])).unwrap();
    let expected = Config {
        functions: "/var/lib/funcd/functions".into(),
        state: "/var/lib/funcd".into(),
        run: "/run/funcd".into(),
        listen: vec!["127.0.0.1:8080".parse().unwrap()],
        admin: "/run/funcd/admin.sock".into(),
        admin_listen: None,
        workers: 3,
        trusted: vec![],
        user: "funcd".into(),
        uid_first: 1_900_000_000,
        uid_count: 65_536,
        read_roots: ["/usr", "/opt", "/srv", "/etc/ssl", "/var/lib/funcd/volumes"]
            .map(PathBuf::from)
            .into(),
        write_roots: ["/srv", "/var/lib/funcd/volumes"].map(PathBuf::from).into(),
        secrets: "/etc/funcd/secrets".into(),
        degraded: vec![],
        max_instances: 4096,
        standbys: 8,
        brownout: true,
        journal: false,
        client: ClientBounds {
            head_timeout: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            head_bytes: 65_536,
            connections: 10_000,
        },
        egress: EgressSettings::default(),
        rescan: Duration::from_secs(30),
        drain: Duration::from_secs(30),
        defaults: String::new(),
    };
    assert_eq!(loaded.config, expected);
    assert!(loaded.rows.iter().all(|row| row.origin == Origin::Default));
    assert_eq!(loaded.rows.len(), file::KEYS.len());
    assert!(loaded.files.is_empty());
}

#[test]
fn defaults_of_a_user() {
    let root = root(&[
        ("home/.config/funcd/funcd.toml", "workers = 7"),
        ("etc/funcd/funcd.toml", "workers = 8"),
    ]);
    let home = root.path().join("home");
    let home = home.to_str().unwrap();
    let load = |vars: &[(&str, &str)]| load(&Flags::default(), &environment(root.path(), 1000, vars));
    let loaded = load(&[("HOME", home)]).unwrap();
    assert_eq!(loaded.config.state, Path::new(home).join(".local/state/funcd"));
    assert_eq!(loaded.config.run, Path::new(home).join(".local/state/funcd/run"));
    assert_eq!(loaded.config.workers, 7);

    let xdg = [
        ("HOME", home),
        ("XDG_STATE_HOME", "/s"),
        ("XDG_RUNTIME_DIR", "/r"),
        ("XDG_CONFIG_HOME", "/nowhere"),
    ];
    let loaded = load(&xdg).unwrap().config;
    assert_eq!(
        (loaded.state.to_str(), loaded.run.to_str()),
        (Some("/s/funcd"), Some("/r/funcd"))
    );
    assert_eq!(loaded.functions, Path::new("/s/funcd/functions"));
    assert_eq!(
        (loaded.admin.to_str(), loaded.workers),
        (Some("/r/funcd/admin.sock"), 3)
    );

    let error = load(&[]).unwrap_err().to_string();
    assert!(
        error.contains("no state folder") && error.contains("--state DIR"),
        "{error}"
    );
}

#[test]
fn systemd_gives_the_folders() {
    let root = root(&[]);
    let vars = [
        ("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"),
        ("RUNTIME_DIRECTORY", "/run/a"),
    ];
    let loaded = load(&Flags::default(), &environment(root.path(), 0, &vars)).unwrap();
    assert_eq!(loaded.config.state, Path::new("/var/lib/a"));
    assert_eq!(loaded.config.admin, Path::new("/run/a/admin.sock"));
    assert_eq!(origin(&loaded, "state"), "environment STATE_DIRECTORY");
}

#[test]
fn the_stronger_layer_wins_and_is_named() {
    let root = root(&[
        (
            "etc/funcd/funcd.toml",
            "workers = 1\nmax_instances = 1\nrescan = \"1s\"\ndrain = \"1s\"\nuser = \"one\"\n",
        ),
        (
            "etc/funcd/conf.d/20-b.toml",
            "max_instances = 3\nrescan = \"3s\"\ndrain = \"3s\"\n",
        ),
        (
            "etc/funcd/conf.d/10-a.toml",
            "# here\nmax_instances = 2\nworkers = 2",
        ),
        ("etc/funcd/conf.d/30-off.toml.bak", "workers = 99"),
        ("usr/lib/funcd/conf.d/10-a.toml", "uid_count = 77"),
        (
            "usr/lib/funcd/conf.d/15-v.toml",
            "user = \"vendor\"\n[client]\nidle = \"5s\"\n",
        ),
    ]);
    let vars = [
        ("FUNCD_RESCAN", "4s"),
        ("FUNCD_DRAIN", "4s"),
        ("FUNCD_CLIENT_HEAD_BYTES", "16K"),
        ("FUNCD_USER", ""),
    ];
    let flags = Flags {
        workers: Some(5),
        listen: vec!["127.0.0.1:0".into(), "[::1]:9".into()],
        functions: Some("fns".into()),
        ..Flags::default()
    };
    let loaded = load(&flags, &environment(root.path(), 0, &vars)).unwrap();
    let config = &loaded.config;
    assert_eq!(config.workers, 5);
    assert_eq!(config.max_instances, 3);
    assert_eq!(config.rescan, Duration::from_secs(4));
    assert_eq!(config.user, "vendor");
    assert_eq!(config.uid_count, 65_536, "masked by name");
    assert_eq!(config.client.idle, Duration::from_secs(5));
    assert_eq!(config.client.head_bytes, 16 << 10);
    assert_eq!(config.functions, Path::new("/here/fns"));
    assert_eq!(config.listen.len(), 2);
    let file = |name: &str| root.path().join(name).display().to_string();
    for (key, at) in [
        ("workers", "flag --workers".to_owned()),
        ("listen", "flag --listen".to_owned()),
        ("max_instances", file("etc/funcd/conf.d/20-b.toml") + ":1:17"),
        ("user", file("usr/lib/funcd/conf.d/15-v.toml") + ":1:8"),
        ("client.idle", file("usr/lib/funcd/conf.d/15-v.toml") + ":3:8"),
        ("rescan", "environment FUNCD_RESCAN".to_owned()),
        ("uid_count", "default".to_owned()),
    ] {
        assert_eq!(origin(&loaded, key), at, "{key}");
    }
    assert_eq!(value(&loaded, "listen"), "[\"127.0.0.1:0\", \"[::1]:9\"]");
    assert_eq!(value(&loaded, "rescan"), "\"4s\"");
    assert_eq!(value(&loaded, "client.head_bytes"), "\"16K\"");
    assert_eq!(loaded.files.len(), 4);
}

#[test]
fn a_named_file_stands_alone() {
    let root = root(&[
        ("etc/funcd/conf.d/10-a.toml", "workers = 2"),
        ("mine.toml", "user = \"me\""),
        ("other.toml", "user = \"other\""),
    ]);
    let flags = Flags {
        config: Some(root.path().join("mine.toml")),
        ..Flags::default()
    };
    let other = root.path().join("other.toml");
    let vars = [("FUNCD_CONFIG", other.to_str().unwrap())];
    let loaded = load(&flags, &environment(root.path(), 0, &vars)).unwrap();
    assert_eq!((loaded.config.user.as_str(), loaded.config.workers), ("me", 3));
    let loaded = load(&Flags::default(), &environment(root.path(), 0, &vars)).unwrap();
    assert_eq!(loaded.config.user, "other");

    let missing = Flags {
        config: Some("/nowhere/funcd.toml".into()),
        ..Flags::default()
    };
    let error = load(&missing, &environment(root.path(), 0, &[])).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/nowhere/funcd.toml: can't read the configuration: No such file"),
        "{error}"
    );
}

#[test]
fn defaults_sections_merge() {
    let root = root(&[
        (
            "etc/funcd/funcd.toml",
            "[defaults]\nargs = [\"a\"]\n[defaults.scale]\nmin = 1\nmax = 2\n[defaults.env]\nA = \"1\"\n",
        ),
        (
            "etc/funcd/conf.d/a.toml",
            "[defaults.scale]\nmax = 3\n[defaults.env]\nB = \"2\"\n",
        ),
    ]);
    let loaded = load(&Flags::default(), &environment(root.path(), 0, &[])).unwrap();
    let defaults = crate::catalog::manifest::Defaults::parse(&loaded.config.defaults).unwrap();
    let name = crate::name::FunctionName::parse("x").unwrap();
    let manifest = crate::catalog::manifest::Manifest::read(&name, Path::new("m"), None, &defaults).unwrap();
    assert_eq!((manifest.scale.min, manifest.scale.max), (1, 3));
    assert_eq!(manifest.args, ["a"]);
    assert_eq!(manifest.env.len(), 2);
    assert!(origin(&loaded, "defaults.scale.max").ends_with("conf.d/a.toml:2:7"));
    assert!(origin(&loaded, "defaults.scale.min").ends_with("funcd.toml:4:7"));
    assert_eq!(value(&loaded, "defaults.env.B"), "\"2\"");
}

#[test]
fn refusals_say_where_and_why() {
    let table = [
        (
            "wokers = 1",
            ":1:1: unknown key `wokers`; did you mean `workers`?",
        ),
        ("workers = 0", ":1:11: 0 is out of range; from 1 to 1024"),
        ("workers = \"two\"", ":1:11: invalid type: string \"two\""),
        (
            "functions = \"fns\"",
            ":1:13: \"fns\" is a relative path; write an absolute one",
        ),
        ("state = \"\"", "this is not a path"),
        ("listen = []", "`listen` is empty"),
        (
            "listen = [\"8080\"]",
            ":1:11: \"8080\" is not an address with a port; write for example",
        ),
        (
            "listen = [\"0.0.0.0:1\", \"0.0.0.0:1\"]",
            ":1:24: 0.0.0.0:1 is there twice",
        ),
        ("admin_listen = \"0.0.0.0:9000\"", "not a loopback address"),
        (
            "trusted = [\"10.1.0.0/8\"]",
            ":1:12: \"10.1.0.0/8\" is not a network: did you mean \"10.0.0.0/8\"",
        ),
        ("user = \"root\"", "never runs as root"),
        ("user = \"a b\"", "is not a user name"),
        ("uid_first = 0", "0 is out of range; from 1000 to"),
        ("degraded = [\"memry-limit\"]", "did you mean \"memory-limit\"?"),
        ("rescan = 5", "expected a length of time with its unit"),
        (
            "[client]\nhead_bytes = \"1K\"",
            ":2:14: \"1K\" is out of range; from 8K to 1M",
        ),
        ("[client]\nhead_timout = \"1s\"", "did you mean `head_timeout`?"),
        (
            "[defaults]\nexce = \"x\"",
            ":2:1: unknown key `exce`; did you mean `exec`?",
        ),
        (
            "[defaults.scale]\nmin = 100",
            ":2:7: scale.min is 100 and scale.max is 8",
        ),
        ("[defaults]\nh2c = 2", ":2:7: "),
        (
            "[defaults.env]\nLD_PRELOAD = \"x\"",
            ":2:1: environment variable \"LD_PRELOAD\" is refused",
        ),
    ];
    for (text, said) in table {
        let root = root(&[("etc/funcd/funcd.toml", text)]);
        let error = load(&Flags::default(), &environment(root.path(), 0, &[])).unwrap_err();
        let line = error.to_string();
        assert!(
            line.contains(said) && line.contains("etc/funcd/funcd.toml:"),
            "{text}\n{line}"
        );
        assert!(error.render(false).contains("funcd.toml"));
    }
}

#[test]
fn variables_and_flags_are_refused_by_name() {
    let root = root(&[]);
    let vars = [("FUNCD_WORKERS", "many")];
    let error = load(&Flags::default(), &environment(root.path(), 0, &vars))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("environment variable FUNCD_WORKERS: invalid type: string \"many\""),
        "{error}"
    );
    let flags = Flags {
        listen: vec!["nonsense".into()],
        ..Flags::default()
    };
    let error = load(&flags, &environment(root.path(), 0, &[])).unwrap_err();
    let rendered = "\
error: \"nonsense\" is not an address with a port
 --> flag --listen:1:11
  |
1 | listen = [\"nonsense\"]
  |           ^^^^^^^^^^ write for example \"127.0.0.1:8080\" or \"[::]:8080\"";
    assert_eq!(error.render(false), rendered);
    let flags = Flags {
        run: Some(format!("/{}", "r".repeat(120)).into()),
        ..Flags::default()
    };
    let error = load(&flags, &environment(root.path(), 0, &[]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("at most 107"), "{error}");
}

#[test]
fn a_configuration_fits_into_its_message() {
    let args = format!("[defaults]\nargs = [\"{}\"]", "x".repeat(31_000));
    let roots = format!("read_roots = [\"/{}\"]\n", "r".repeat(20_000));
    for (text, good) in [(args.clone(), true), (roots.clone() + &args, false)] {
        let root = root(&[("etc/funcd/funcd.toml", &text)]);
        let loaded = load(&Flags::default(), &environment(root.path(), 0, &[]));
        assert_eq!(loaded.is_ok(), good, "{:?}", loaded.err());
    }
}

#[test]
fn a_mistyped_variable_is_a_warning() {
    let root = root(&[]);
    let vars = [("FUNCD_LITSEN", "x"), ("FUNCD_TEST_REQUIRE", "all")];
    let loaded = load(&Flags::default(), &environment(root.path(), 0, &vars)).unwrap();
    assert_eq!(
        loaded.warnings,
        ["environment variable FUNCD_LITSEN sets nothing; did you mean FUNCD_LISTEN?"]
    );
}

#[test]
fn every_key_can_be_set_by_its_variable() {
    let root = root(&[]);
    for (key, shape) in file::KEYS {
        let name = file::variable(key);
        let value = match (key, shape) {
            ("listen" | "admin_listen" | "egress.nameservers", _) => "127.0.0.1:1",
            ("trusted" | "egress.allow", _) => "10.0.0.0/8,::1",
            ("degraded", _) => "P5, cpu-limit",
            ("rescan" | "drain" | "client.head_timeout" | "client.body_idle" | "client.idle", _) => "1s",
            ("client.head_bytes", _) => "8192",
            (_, file::Shape::Number) => "2000",
            (_, file::Shape::Switch) => "false",
            (_, file::Shape::Text | file::Shape::List) => "/a",
        };
        let value = match key {
            "workers" | "standbys" => "2",
            "user" => "nobody",
            _ => value,
        };
        let loaded = load(&Flags::default(), &environment(root.path(), 0, &[(&name, value)]));
        let loaded = loaded.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(origin(&loaded, key), format!("environment {name}"));
        assert!(loaded.warnings.is_empty());
    }
}

#[test]
fn a_configuration_survives_the_way_to_the_supervisor() {
    let root = root(&[(
        "etc/funcd/funcd.toml",
        "degraded = [\"P5\"]\nrescan = \"1.5s\"\nadmin_listen = \"[::1]:1\"\n[defaults]\nargs = [\"\\\"\\n\"]\n[defaults.limits]\ncpu = 0.5\n[[defaults.route]]\nhost = \"a\"\n",
    )]);
    let config = load(&Flags::default(), &environment(root.path(), 0, &[]))
        .unwrap()
        .config;
    let json = serde_json::to_vec(&config).unwrap();
    assert_eq!(serde_json::from_slice::<Config>(&json).unwrap(), config);
}

#[test]
fn every_key_and_kind_is_documented() {
    let configuration = include_str!("../../../docs/configuration.md");
    for (key, _) in file::KEYS {
        let row = match key.split_once('.') {
            Some((table, key)) => format!("| `[{table}]` `{key}` |"),
            None => format!("| `{key}` |"),
        };
        assert!(configuration.contains(&row), "{row}");
    }
    let manifest = include_str!("../../../docs/manifest.md");
    for kind in crate::catalog::refusal::kind::ALL {
        assert!(manifest.contains(&format!("`{kind}`")), "{kind}");
    }
    let known = |section: &str| {
        let text = if section.is_empty() {
            "no-key = 1".into()
        } else {
            format!("{section}\nno-key = 1")
        };
        let error = crate::catalog::manifest::Defaults::parse(&text)
            .unwrap_err()
            .to_string();
        let keys = error
            .split_once("the keys here are ")
            .expect(section)
            .1
            .to_owned();
        keys.split(", ").map(str::to_owned).collect::<Vec<_>>()
    };
    let tables = [
        "route", "scale", "limits", "request", "health", "sandbox", "bindings",
    ];
    for key in known("").iter().filter(|key| !tables.contains(&key.as_str())) {
        assert!(manifest.contains(&format!("`{key}`")), "{key}");
    }
    for table in tables {
        let header = match table {
            "route" => "[[route]]".into(),
            "bindings" => "[bindings.NAME]".into(),
            _ => format!("[{table}]"),
        };
        for key in known(&header) {
            let row = format!("| `{header}` `{key}` |");
            assert!(
                manifest.contains(&row) || manifest.contains(&format!("`{table}.{key}`")),
                "{row}"
            );
        }
    }
    // The examples are right.
    let example = |text: &str| {
        text.rsplit("```toml\n")
            .next()
            .unwrap()
            .split("```")
            .next()
            .unwrap()
            .to_owned()
    };
    crate::catalog::manifest::Defaults::parse(&example(manifest)).unwrap();
    let root = root(&[("etc/funcd/funcd.toml", &example(configuration))]);
    load(&Flags::default(), &environment(root.path(), 0, &[])).unwrap();
}

proptest! {
    #[test]
    fn nothing_typed_panics(text in "\\PC{0,120}|[a-z_\\[\\]{}=\"'\n.0-9 /:-]{0,120}", var in "\\PC{0,40}") {
        let root = root(&[("etc/funcd/funcd.toml", &text)]);
        let vars: Vec<(String, &str)> = file::KEYS.iter().map(|(key, _)| (file::variable(key), var.as_str())).collect();
        let _ = load(&Flags::default(), &environment(root.path(), 0, &[])).map_err(|e| e.render(false));
        for (name, value) in &vars {
            let flags = Flags { listen: vec![var.clone()], ..Flags::default() };
            let _ = load(&flags, &environment(root.path(), 0, &[(name, value)])).map_err(|e| e.to_string());
        }
    }
}
