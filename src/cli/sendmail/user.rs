//! Who calls: the sender where none is given.
//!
//! `/etc/passwd` is read as it stands: a static program has no other name service. Users who are
//! not in it are who `$LOGNAME` says; either is only a default, as `-f` is anybody's.

use std::{env, fs};

/// The caller.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct User {
    /// Login name.
    pub(super) name: String,
    /// As people read it.
    pub(super) full_name: Option<String>,
}

/// The user this process runs as.
pub(super) fn current() -> User {
    let uid = rustix::process::getuid().as_raw();
    let passwd = fs::read("/etc/passwd").unwrap_or_default();
    if let Some(user) = find(&String::from_utf8_lossy(&passwd), uid) {
        return user;
    }
    let variable = |name| env::var_os(name).and_then(|value| value.into_string().ok());
    let name = variable("LOGNAME").or_else(|| variable("USER"));
    User {
        name: name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| format!("uid{uid}")),
        full_name: None,
    }
}

/// `name:password:uid:gid:full name,office..:home:shell`.
fn find(passwd: &str, uid: u32) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        if fields.nth(1)?.parse() != Ok(uid) {
            return None;
        }
        let full_name = fields.nth(1).and_then(|gecos| gecos.split(',').next());
        let full_name = full_name.filter(|name| !name.is_empty());
        Some(User {
            name: name.to_owned(),
            // The old custom: an ampersand is the login name.
            full_name: full_name.map(|full| full.replace('&', name)),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_found_in_passwd() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nbroken\nwww:x:33:33:& Server,Room 1:/:\nno:x:7:7::/:\n";
        let root = find(passwd, 0).unwrap();
        assert_eq!(
            (root.name.as_str(), root.full_name.as_deref()),
            ("root", Some("root"))
        );
        assert_eq!(
            find(passwd, 33).unwrap().full_name.as_deref(),
            Some("www Server")
        );
        assert_eq!(find(passwd, 7).unwrap().full_name, None);
        assert_eq!(find(passwd, 1000), None);
    }
}
