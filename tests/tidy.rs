//! The house rules that a machine can hold: layers, absences, dependencies, a true map.
#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The table in `src/lib.rs`. A module uses only modules of lower layers (and itself).
const LAYERS: &[&[&str]] = &[
    &["mail", "clock", "secret", "telemetry"],
    &["smtp", "route", "dsn", "net"],
    &["store"],
    &["queue", "oauth", "notify"],
    &["submission", "delivery", "registry"],
    &["admin"],
    &["config"],
    &["daemon", "sandbox"],
    &["cli"],
];

/// Arrows within a layer that the table would forbid. Empty is best.
const SIDEWAYS: &[(&str, &str)] = &[];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Source files with the name of their top-level module.
fn sources() -> Vec<(String, PathBuf, String)> {
    let src = root().join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    files.sort();
    files
        .into_iter()
        .filter(|path| !path.ends_with("tests.rs"))
        .map(|path| {
            let inside = path.strip_prefix(&src).unwrap();
            let first = inside
                .components()
                .next()
                .unwrap()
                .as_os_str()
                .to_str()
                .unwrap();
            let module = first.trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(&path).unwrap();
            (module, path, text)
        })
        .collect()
}

/// The code of a file before its unit tests, without comments. A `mod tests;` at its top is no end.
fn code(text: &str) -> String {
    text.split("\n#[cfg(test)]\nmod tests {\n")
        .next()
        .unwrap()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Top-level modules named after `crate::`, also inside `use crate::{a::x, b}`.
fn used_modules(code: &str) -> BTreeSet<String> {
    code.split("crate::")
        .skip(1)
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(list) => listed(list),
            None => vec![word(rest)],
        })
        .collect()
}

/// The first word of each item of a use list, up to the brace that closes it.
fn listed(list: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut depth = 0_usize;
    let mut item = String::new();
    for c in list.chars() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => words.push(word(&std::mem::take(&mut item))),
            _ => item.push(c),
        }
    }
    words.push(word(&item));
    words
}

fn word(text: &str) -> String {
    text.trim_start()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

#[test]
fn arrows_go_down_only() {
    let level: BTreeMap<&str, usize> = LAYERS
        .iter()
        .enumerate()
        .flat_map(|(n, names)| names.iter().map(move |name| (*name, n)))
        .collect();
    let mut wrong = Vec::new();
    for (module, path, text) in sources() {
        if module == "lib" || module == "main" {
            continue;
        }
        let own = *level
            .get(module.as_str())
            .unwrap_or_else(|| panic!("{module} is in no layer"));
        for used in used_modules(&code(&text)) {
            let Some(other) = level.get(used.as_str()) else {
                continue;
            };
            let allowed = used == module
                || *other < own
                || SIDEWAYS.contains(&(module.as_str(), used.as_str()));
            if !allowed {
                wrong.push(format!("{}: {module} uses {used}", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "arrows that go up or sideways:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_layer_reader_sees_nested_and_single_imports() {
    let seen =
        used_modules("use crate::{mail::{Address, Reply}, queue, store::Store};\ncrate::dsn::x()");
    let want = ["dsn", "mail", "queue", "store"].map(String::from);
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), want);
}

#[test]
fn pure_modules_touch_no_socket_file_task_or_clock() {
    let pure = [
        "src/mail",
        "src/smtp",
        "src/route.rs",
        "src/dsn.rs",
        "src/delivery/verdict",
    ];
    let banned = [
        "tokio::",
        "std::net::Tcp",
        "std::fs",
        "SystemTime",
        "Instant",
        "std::env",
    ];
    for (_, path, text) in sources() {
        let inside = path
            .strip_prefix(root())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        if pure.iter().any(|p| inside.starts_with(p)) {
            for word in banned {
                assert!(
                    !code(&text).contains(word),
                    "{inside} is pure but mentions {word}"
                );
            }
        }
    }
}

#[test]
fn secrets_leave_by_few_doors() {
    // Where a request, an AUTH line or a sealed record is encoded, and where hashes are made.
    let doors = [
        "src/oauth",
        "src/smtp/sasl",
        "src/delivery/transport",
        "src/submission",
        "src/config",
        "src/cli/hash_password.rs",
        "src/sandbox",
        "src/cli/demo.rs",
        "src/cli/sandbox.rs",
        "src/secret.rs",
        // A proxy's URL, which may hold its password.
        "src/net/proxy.rs",
        // A webhook's URL.
        "src/notify/webhook.rs",
    ];
    for (_, path, text) in sources() {
        let inside = path
            .strip_prefix(root())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        if !doors.iter().any(|d| inside.starts_with(d)) {
            assert!(
                !code(&text).contains(".expose()"),
                "{inside} opens a secret"
            );
        }
    }
}

#[test]
fn one_tls_stack_one_runtime_one_http_client() {
    // What is built, not what Cargo.lock remembers of features nobody turned on.
    let tree = std::process::Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--prefix",
            "none",
            "--edges",
            "normal,build,dev",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        tree.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&tree.stderr)
    );
    let tree = String::from_utf8(tree.stdout).unwrap();
    let versions = |name: &str| {
        let lines = tree.lines().filter(|l| l.starts_with(&format!("{name} v")));
        lines
            .filter_map(|l| l.split(' ').nth(1))
            .collect::<BTreeSet<_>>()
            .len()
    };
    for banned in [
        "ring",
        "openssl-sys",
        "native-tls",
        "async-std",
        "hyper-tls",
        "ureq",
    ] {
        assert_eq!(versions(banned), 0, "{banned} came in");
    }
    for single in ["rustls", "reqwest", "tokio", "axum", "rusqlite"] {
        assert_eq!(
            versions(single),
            1,
            "{single} stands in more than one version, or in none"
        );
    }
}

#[test]
fn the_map_names_every_module() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for (module, path, _) in sources() {
        assert!(
            module == "main" || module == "lib" || map.contains(&format!("`{module}`")),
            "ARCHITECTURE.md does not mention `{module}` ({})",
            path.display()
        );
    }
}

#[test]
fn nothing_is_left_for_later() {
    let marks = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["todo", "!("].concat(),
    ];
    for (_, path, text) in sources() {
        for mark in &marks {
            assert!(
                !text.contains(mark.as_str()),
                "{} says {mark}",
                path.display()
            );
        }
    }
}

#[test]
fn every_file_says_what_it_is() {
    for (_, path, text) in sources() {
        assert!(
            text.starts_with("//!"),
            "{} has no head comment",
            path.display()
        );
    }
}
