//! The fields of a form that was sent, in their order; names may repeat (check boxes of a list).

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::StatusCode,
};
use url::form_urlencoded;

use super::Failed;
use crate::admin::{api::Problem, connection::BODY_DEADLINE};

/// What a form has sent. Not `Debug` with its values: a field may be a secret.
pub(in crate::admin) struct Posted(Vec<(String, String)>);

impl std::fmt::Debug for Posted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Posted(..)")
    }
}

impl Posted {
    /// The fields of a query, as a form with method GET sends them, or of a form's body.
    pub(in crate::admin) fn parse(octets: &[u8]) -> Self {
        Self(form_urlencoded::parse(octets).into_owned().collect())
    }

    /// A field as it was typed; empty: not given.
    pub(in crate::admin) fn raw(&self, name: &str) -> &str {
        let mut fields = self.0.iter();
        let found = fields.find(|(given, _)| given == name);
        found.map_or("", |(_, value)| value.as_str())
    }

    /// A field without the blanks around it, which come with copying; empty: not given.
    pub(in crate::admin) fn text(&self, name: &str) -> &str {
        self.raw(name).trim()
    }

    /// Every value of a name that repeats.
    pub(in crate::admin) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let fields = self.0.iter().filter(move |(given, _)| given == name);
        fields.map(|(_, value)| value.as_str())
    }

    /// The same without the fields that `is_secret` names.
    pub(in crate::admin) fn without(&self, is_secret: impl Fn(&str) -> bool) -> Self {
        let fields = self.0.iter().filter(|(name, _)| !is_secret(name));
        Self(fields.cloned().collect())
    }

    /// As if a form had sent these.
    #[cfg(test)]
    pub(in crate::admin) fn of(fields: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self(fields.iter().map(owned).collect())
    }

    /// Whether a person has answered the question of [`super::confirm`] with yes.
    pub(in crate::admin) fn is_confirmed(&self) -> bool {
        self.raw("confirmed") == "yes"
    }
}

/// One field of a form, for the macro `ui::field`: what it is for, what is in it, what is wrong.
#[derive(Debug, Clone, Default)]
pub(in crate::admin) struct Field {
    /// Its name, and its id on the page.
    pub(in crate::admin) name: &'static str,
    /// What it is called.
    pub(in crate::admin) label: &'static str,
    /// What is in it. Never a secret: those go in and do not come out.
    pub(in crate::admin) value: String,
    /// What to write there, in a sentence.
    pub(in crate::admin) help: String,
    /// What is wrong with the value, with the remedy.
    pub(in crate::admin) error: Option<String>,
    /// `text`, `url`, `email`, `number`, `date`, `password`; without meaning for a choice.
    pub(in crate::admin) kind: &'static str,
    /// What a browser may fill in; `off` for what is no login.
    pub(in crate::admin) autocomplete: &'static str,
    /// Values and their labels; empty: free text.
    pub(in crate::admin) choices: Vec<(&'static str, &'static str)>,
    /// Whether the form cannot do without.
    pub(in crate::admin) is_required: bool,
    /// Whether the file has it.
    pub(in crate::admin) is_read_only: bool,
    /// Whether the page is about it, so that one types without a click.
    pub(in crate::admin) is_first: bool,
    /// What holds where it is empty, shown in grey; empty: nothing does.
    pub(in crate::admin) placeholder: String,
}

impl Field {
    /// The field with what a refusal says about it.
    pub(in crate::admin) fn judged(self, problem: Option<&Problem>) -> Self {
        let fields = problem.map_or(&[][..], |problem| &problem.fields);
        let told = fields.iter().filter(|field| field.key == self.name);
        let told: Vec<String> = told
            .map(|field| format!("{}; {}", field.what, field.remedy))
            .collect();
        Self {
            error: (!told.is_empty()).then(|| told.join(" ")),
            ..self
        }
    }
}

/// What a refusal says that is about none of these fields of its form: for the top of the page.
pub(in crate::admin) fn about_the_rest(problem: &Problem, fields: &[&str]) -> Vec<String> {
    let others = problem.fields.iter();
    let others = others.filter(|field| !fields.contains(&field.key.as_str()));
    let mut told: Vec<String> = problem.problems.clone();
    told.extend(others.map(ToString::to_string));
    if told.is_empty() && problem.fields.is_empty() {
        let remedy = problem.remedy.as_deref();
        let remedy = remedy.map_or_else(String::new, |remedy| format!("; {remedy}"));
        told.push(format!("{}{remedy}", problem.detail));
    }
    told
}

impl<S: Send + Sync> FromRequest<S> for Posted {
    type Rejection = Failed;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failed> {
        let read = Bytes::from_request(request, state);
        let octets = tokio::time::timeout(BODY_DEADLINE, read).await;
        let octets = octets.ok().and_then(Result::ok).ok_or_else(|| {
            let text = "The form did not arrive whole.";
            let problem = Problem::new(StatusCode::BAD_REQUEST, text);
            Failed(problem.remedy("send it again"))
        })?;
        Ok(Self::parse(&octets))
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, response::IntoResponse};
    use tokio_util::io::ReaderStream;

    use super::*;

    /// Its connection is somebody else's then.
    #[tokio::test(start_paused = true)]
    async fn a_form_that_never_ends_is_given_up() {
        let (_writer, reader) = tokio::io::duplex(64);
        let body = Body::from_stream(ReaderStream::new(reader));
        let refused = Posted::from_request(Request::new(body), &()).await;
        let answer = refused.unwrap_err().into_response();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    }
}
