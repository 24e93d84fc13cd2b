//! By which ways the browser's answer can come back, and what a person is told about them. Pure.

use std::net::SocketAddr;

use url::Url;

use crate::{mail::AccountName, net::http};

/// A terminal hands over no longer line (`N_TTY_BUF_SIZE` less its end); what is longer is cut.
const TERMINAL_LINE_MAX: usize = 4095;

/// What there is.
pub(super) struct Ways<'a> {
    pub(super) account: &'a AccountName,
    /// The address to sign in at.
    pub(super) url: &'a str,
    /// A browser was opened on this desktop.
    pub(super) opened: bool,
    /// An address can be pasted.
    pub(super) pastes: bool,
    /// A device code would do as well.
    pub(super) device: bool,
    /// Where the callback is served.
    pub(super) console: Option<SocketAddr>,
    /// `SSH_CONNECTION`: the last words are this machine's address and port.
    pub(super) ssh: Option<String>,
}

impl Ways<'_> {
    /// What to do.
    pub(super) fn told(&self) -> String {
        let url = self.url;
        let mut told = if self.opened {
            format!(
                "Sign in in the browser window that opens. If none does, open this address:\n\n{url}\n"
            )
        } else {
            format!("Open this address in a browser and sign in:\n\n{url}\n")
        };
        if !self.opened {
            told.push_str(&self.back());
            if self.device {
                let account = self.account;
                told.push_str(&format!(
                    "\nWith a code to enter on any device instead: gatepost login {account} --device\n"
                ));
            }
        }
        told
    }

    /// How the browser comes back.
    fn back(&self) -> String {
        let Some(redirect) = self.redirect() else {
            return String::new();
        };
        let paste = "copy the address of that page and paste it here";
        if !http::is_loopback(&redirect) {
            return match self.pastes {
                true => format!(
                    "\nThe browser then comes back to {redirect}\nby itself; if it gets nowhere, {paste}.\n"
                ),
                false => format!("\nThe browser then comes back to {redirect}\nby itself.\n"),
            };
        }
        let tunnel = self.tunnel(&redirect);
        match self.pastes {
            true => format!(
                "\nWith the browser on another machine its last page cannot be reached: {paste}.\n\
                 Or have it reached, by running this there first:\n\n  {tunnel}\n"
            ),
            false => format!(
                "\nThe browser must reach {redirect} on this machine. From another one:\n\n  {tunnel}\n\n\
                 To paste the address of the last page instead, use --no-browser, or a terminal (docker \
                 exec -it).\n"
            ),
        }
    }

    /// The command that brings the callback to a browser elsewhere.
    fn tunnel(&self, redirect: &Url) -> String {
        let there = redirect.port_or_known_default().unwrap_or(8025);
        let here = self.console.map_or(there, |console| console.port());
        let host = self.console.map(|console| console.ip());
        let host = host.filter(|ip| !ip.is_loopback() && !ip.is_unspecified());
        let host = host.map_or_else(
            || "localhost".to_owned(),
            |ip| SocketAddr::new(ip, 0).ip().to_string(),
        );
        let machine = self.ssh.as_deref().and_then(|ssh| ssh.split(' ').nth(2));
        let machine = machine.unwrap_or("THIS-MACHINE");
        format!("ssh -L {there}:{host}:{here} {machine}")
    }

    fn redirect(&self) -> Option<Url> {
        let url = Url::parse(self.url).ok()?;
        let found = url.query_pairs().find(|(name, _)| name == "redirect_uri")?;
        Url::parse(&found.1).ok()
    }

    /// What is wrong with a pasted line, where that can be seen without asking anybody: what is
    /// handed on may use the sign-in up.
    pub(super) fn unusable(&self, line: &str) -> Option<String> {
        let line = line.trim();
        let begins = self.redirect();
        let begins = begins.as_ref().map_or("http", Url::as_str);
        let wanted =
            format!("paste the address of the page after the sign-in: it begins with {begins}?");
        let to_open = self.url.split('?').next().unwrap_or_default();
        if line.split('?').next() == Some(to_open) {
            return Some(format!("that is the address to sign in at; {wanted}"));
        }
        let query = line.split_once('?').map_or(line, |(_, query)| query);
        let has = |wanted: &str| {
            url::form_urlencoded::parse(query.as_bytes())
                .any(|(name, value)| name == wanted && !value.is_empty())
        };
        let cut = if line.len() >= TERMINAL_LINE_MAX {
            "; this terminal takes no longer line, so use the ssh tunnel or --device"
        } else {
            ""
        };
        if !has("code") && !has("error") {
            return Some(format!("there is no code in it; {wanted}{cut}"));
        }
        if !has("state") {
            return Some(format!(
                "it is not whole, there is no state in it; {wanted}{cut}"
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://login.example/authorize?client_id=x&state=s\
                       &redirect_uri=http%3A%2F%2Flocalhost%3A8025%2Fauthorization%2Fsmtp_oauth%2F";

    fn ways(account: &AccountName) -> Ways<'_> {
        Ways {
            account,
            url: URL,
            opened: false,
            pastes: true,
            device: true,
            console: Some("127.0.0.1:9025".parse().unwrap()),
            ssh: Some("192.0.2.7 50000 192.0.2.1 22".to_owned()),
        }
    }

    /// Every way that there is, and no other.
    #[test]
    fn each_way_is_told_where_there_is_one() {
        let account = AccountName::new("alerts");
        let told = ways(&account).told();
        for word in [
            URL,
            "paste it here",
            "ssh -L 8025:localhost:9025 192.0.2.1",
            "login alerts --device",
        ] {
            assert!(told.contains(word), "{word}: {told}");
        }
        let told = Ways {
            pastes: false,
            device: false,
            ssh: None,
            ..ways(&account)
        }
        .told();
        assert!(
            told.contains("docker exec -it") && told.contains("9025 THIS-MACHINE"),
            "{told}"
        );
        assert!(
            !told.contains("--device") && !told.contains("paste it here"),
            "{told}"
        );
        let public = URL.replace(
            "http%3A%2F%2Flocalhost%3A8025",
            "https%3A%2F%2F10.16.13.2%3A9443",
        );
        let told = Ways {
            url: &public,
            ..ways(&account)
        }
        .told();
        assert!(
            told.contains("comes back to https://10.16.13.2:9443/") && !told.contains("ssh"),
            "{told}"
        );
        let told = Ways {
            opened: true,
            ..ways(&account)
        }
        .told();
        assert!(
            told.contains("window that opens") && !told.contains("ssh"),
            "{told}"
        );
    }

    /// What cannot be an answer is told before it uses the sign-in up.
    #[test]
    fn a_line_that_is_no_answer_is_told_so() {
        let account = AccountName::new("alerts");
        let ways = ways(&account);
        let back = "http://localhost:8025/authorization/smtp_oauth/";
        for (line, wrong) in [
            (format!("{back}?code=c&state=s"), None),
            ("?error=access_denied&state=s".to_owned(), None),
            (format!(" {back}?state=s&code=c#_=_ "), None),
            (URL.to_owned(), Some("the address to sign in at")),
            ("hello".to_owned(), Some("no code in it")),
            (format!("{back}?code=c"), Some("no state in it")),
            (format!("{back}?x={}", "y".repeat(5000)), Some("--device")),
        ] {
            let told = ways.unusable(&line);
            assert_eq!(told.is_some(), wrong.is_some(), "{line}: {told:?}");
            if let (Some(told), Some(wrong)) = (told, wrong) {
                assert!(told.contains(wrong) && told.contains(back), "{told}");
            }
        }
    }
}
