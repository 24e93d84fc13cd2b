//! The pages, one file each with its template beside it.

pub(super) mod account;
pub(super) mod account_form;
mod account_keys;
pub(super) mod accounts;
pub(super) mod allow;
pub(super) mod clients;
pub(super) mod keys;
pub(super) mod logins;
pub(super) mod message;
pub(super) mod notices;
mod operate;
pub(super) mod overview;
pub(super) mod providers;
pub(super) mod queue;
pub(super) mod settings;
pub(super) mod sign_in;
pub(super) mod trace;
pub(super) mod trial;

use url::Url;

/// A name as a part of a path. `new` stands for the page that adds one; what is called so itself is
/// reached all the same.
fn segment(name: &str) -> String {
    if name == "new" {
        return "%6Eew".to_owned();
    }
    let Ok(mut url) = Url::parse("http://localhost/") else {
        return String::new();
    };
    if let Ok(mut path) = url.path_segments_mut() {
        path.clear().push(name);
    }
    url.path().trim_start_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_in_its_place_of_a_path() {
        for (name, wanted) in [
            ("alerts+1@contoso.com", "alerts+1@contoso.com"),
            ("a/b?c#d", "a%2Fb%3Fc%23d"),
            ("two words", "two%20words"),
        ] {
            assert_eq!(segment(name), wanted);
        }
    }
}
