//! A network of its own: this machine has addresses beyond loopback in it, and nobody else is there.

use std::{net::Ipv4Addr, path::Path, process::Command};

use crate::support::{need_root, program};

/// Where a provider is that is not on loopback.
pub(crate) const PROVIDER: Ipv4Addr = Ipv4Addr::new(10, 203, 0, 1);

/// Where a proxy's connections come from.
pub(crate) const PROXY: Ipv4Addr = Ipv4Addr::new(10, 203, 0, 2);

/// The address of the seed's example redirect URL.
pub(crate) const CONSOLE: Ipv4Addr = Ipv4Addr::new(10, 16, 13, 2);

/// Set in a run that is inside; no key of the daemon, which would read it.
const INSIDE: &str = "IN_A_NETWORK_OF_ITS_OWN";

/// Runs the test of this path again in a network (and mounts) of its own; `true` in that run, which is
/// to do the work, `false` outside of it when it has gone well.
pub(crate) fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        run("ip", "iproute2", &["link", "set", "lo", "up"]);
        for address in [PROVIDER, PROXY, CONSOLE] {
            let address = format!("{address}/32");
            run("ip", "iproute2", &["address", "add", &address, "dev", "lo"]);
        }
        return true;
    }
    need_root("a network of its own is made");
    let mut command = Command::new(program("unshare", "util-linux"));
    command.args(["--net", "--mount", "--"]);
    command.arg(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "inside: {said}\n{complained}");
    assert!(
        said.contains("1 passed"),
        "no test is called {test}: {said}"
    );
    false
}

/// Puts one file in the place of another, in these mounts alone.
pub(crate) fn replace(path: &Path, by: &Path) {
    let (by, path) = (by.to_str().unwrap(), path.to_str().unwrap());
    run("mount", "mount", &["--bind", by, path]);
}

fn run(name: &str, package: &str, arguments: &[&str]) {
    let status = Command::new(program(name, package))
        .args(arguments)
        .status();
    assert!(status.unwrap().success(), "{name} {arguments:?}");
}
