//! An event as one record: its own fields and those of the spans around it, filtered, then shaped
//! as text, JSON or a journal entry.

use std::{
    fmt::{self, Write as _},
    io::Write as _,
};

use serde_json::{Map, Value};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record as SpanRecord},
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

use super::writer::Queue;

/// The fields that hold a mail address.
const ADDRESS_FIELDS: [&str; 4] = ["sender", "recipient", "signed_in_as", "expected"];

/// No journal field is longer: larger datagrams need a memory file instead, and no fact is.
const JOURNAL_FIELD_LEN_MAX: usize = 16 * 1024;

/// How a record looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `2026-01-01T00:00:00.000Z INFO delivered queue_id=...`
    Text,
    /// One object a line.
    Json,
    /// The journal's native protocol.
    Journal,
}

/// Renders each event and hands it to the writer thread.
#[derive(Debug)]
pub(super) struct Renderer {
    shape: Shape,
    addresses: bool,
    queue: Queue,
}

/// Fields in the order in which they were recorded; a later one of the same name wins.
#[derive(Debug, Default, Clone)]
struct Fields(Vec<(&'static str, Value)>);

impl Renderer {
    pub(super) fn new(shape: Shape, addresses: bool, queue: Queue) -> Self {
        Self {
            shape,
            addresses,
            queue,
        }
    }

    fn render(&self, level: Level, target: &str, fields: &Fields) -> Vec<u8> {
        match self.shape {
            Shape::Text => text(level, fields),
            Shape::Json => json(level, target, fields),
            Shape::Journal => journal(level, target, fields),
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Renderer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &SpanRecord<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.add_missing(outer);
            }
        }
        let level = *event.metadata().level();
        if level <= Level::INFO && !self.addresses {
            fields.0.retain(|(name, _)| !ADDRESS_FIELDS.contains(name));
        }
        let dropped = self.queue.take_dropped();
        if dropped > 0 {
            let told = Fields(vec![
                ("event", Value::from("log_lines_dropped")),
                ("count", Value::from(dropped)),
            ]);
            let line = self.render(Level::WARN, module_path!(), &told);
            self.queue.send(line);
        }
        self.queue
            .send(self.render(level, event.metadata().target(), &fields));
    }
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.retain(|(name, _)| *name != field.name());
        self.0.push((field.name(), value));
    }

    /// Adds what an outer span knows and this one does not.
    fn add_missing(&mut self, outer: &Self) {
        for (name, value) in &outer.0 {
            if !self.0.iter().any(|(known, _)| known == name) {
                self.0.push((name, value.clone()));
            }
        }
    }

    fn get(&self, wanted: &str) -> Option<&Value> {
        self.0
            .iter()
            .find(|(name, _)| *name == wanted)
            .map(|(_, value)| value)
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::from(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::from(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut chain = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            write!(chain, ": {cause}").unwrap_or_default();
            source = cause.source();
        }
        self.put(field, Value::from(chain));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::from(format!("{value:?}")));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a line's time is when it was written, whatever clock the rest is given"
)]
fn timestamp() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

/// Event name first, then `message` if there is one, then `key=value`.
fn text(level: Level, fields: &Fields) -> Vec<u8> {
    let mut line = format!("{} {level:<5}", timestamp());
    for name in ["event", "message"] {
        if let Some(value) = fields.get(name) {
            write!(line, " {}", Plain(value)).unwrap_or_default();
        }
    }
    for (name, value) in &fields.0 {
        if !matches!(*name, "event" | "message") {
            write!(line, " {name}={}", Quoted(value)).unwrap_or_default();
        }
    }
    line.push('\n');
    line.into_bytes()
}

fn json(level: Level, target: &str, fields: &Fields) -> Vec<u8> {
    let mut object = Map::new();
    object.insert("time".to_owned(), Value::from(timestamp()));
    object.insert(
        "level".to_owned(),
        Value::from(level.as_str().to_ascii_lowercase()),
    );
    object.insert("target".to_owned(), Value::from(target));
    for (name, value) in &fields.0 {
        object.insert((*name).to_owned(), value.clone());
    }
    let mut line = Value::Object(object).to_string();
    line.push('\n');
    line.into_bytes()
}

/// systemd.journal-fields(7), systemd's native journal protocol: a field whose value holds a line
/// feed is written with its length, so that no value can pass for another field.
fn journal(level: Level, target: &str, fields: &Fields) -> Vec<u8> {
    let priority = match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    };
    let mut entry = Vec::new();
    let summary = String::from_utf8_lossy(&text(level, fields)).into_owned();
    // The journal has its own time and level.
    let summary = summary
        .splitn(3, ' ')
        .nth(2)
        .unwrap_or_default()
        .trim()
        .to_owned();
    journal_field(&mut entry, "MESSAGE", &summary);
    journal_field(&mut entry, "PRIORITY", priority);
    journal_field(&mut entry, "SYSLOG_IDENTIFIER", "gatepost");
    journal_field(&mut entry, "TARGET", target);
    for (name, value) in &fields.0 {
        if *name != "message" {
            let name: String = name
                .chars()
                .map(|c| {
                    if c.is_ascii_alphanumeric() {
                        c.to_ascii_uppercase()
                    } else {
                        '_'
                    }
                })
                .collect();
            journal_field(
                &mut entry,
                &format!("GATEPOST_{name}"),
                &Plain(value).to_string(),
            );
        }
    }
    entry
}

fn journal_field(entry: &mut Vec<u8>, name: &str, value: &str) {
    let value = value.as_bytes();
    let value = value.get(..JOURNAL_FIELD_LEN_MAX).unwrap_or(value);
    entry.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        entry.push(b'\n');
        let length = u64::try_from(value.len()).unwrap_or_default();
        // Writing to a Vec cannot fail.
        entry.write_all(&length.to_le_bytes()).unwrap_or_default();
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

/// A value as it is; control characters escaped, so that no value can pass for another line.
struct Plain<'a>(&'a Value);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Value::String(text) = self.0 else {
            return write!(f, "{}", self.0);
        };
        for c in text.chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// A value in quotes where it would otherwise run into its neighbours.
struct Quoted<'a>(&'a Value);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let divides = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '=');
        let text = self.0.as_str();
        match text.filter(|text| text.is_empty() || text.contains(divides)) {
            Some(text) => write!(f, "{text:?}"),
            None => Plain(self.0).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use tracing_subscriber::{Registry, layer::SubscriberExt};

    use super::{
        super::writer::{self, Sink},
        *,
    };

    fn lines(shape: Shape, addresses: bool, events: impl FnOnce()) -> Vec<String> {
        let (seen, lines): (_, Receiver<Vec<u8>>) = channel();
        let sink = Sink::Test(Box::new(move |line| seen.send(line.to_vec()).unwrap()));
        let (queue, guard) = writer::start(sink).unwrap();
        let subscriber = Registry::default().with(Renderer::new(shape, addresses, queue));
        tracing::subscriber::with_default(subscriber, events);
        drop(guard);
        lines
            .try_iter()
            .map(|l| String::from_utf8_lossy(&l).into_owned())
            .collect()
    }

    fn delivered() {
        let span = tracing::info_span!("attempt", queue_id = "0abc", account = "alerts");
        let _entered = span.enter();
        tracing::info!(
            event = "delivered",
            recipient = "a@b.example",
            reply = "250 2.0.0 OK",
            elapsed_ms = 12_u64
        );
    }

    /// One fact, one line: the event's own fields first, then those of the spans around it.
    #[test]
    fn text_is_one_line_a_fact() {
        let lines = lines(Shape::Text, false, delivered);
        assert_eq!(lines.len(), 1);
        let (_, after_time) = lines[0].split_once(' ').unwrap();
        assert_eq!(
            after_time,
            "INFO  delivered reply=\"250 2.0.0 OK\" elapsed_ms=12 queue_id=0abc account=alerts\n"
        );
    }

    #[test]
    fn json_is_one_object_a_line() {
        let lines = lines(Shape::Json, true, delivered);
        let object: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(object["event"], "delivered");
        assert_eq!(object["elapsed_ms"], 12);
        assert_eq!(object["queue_id"], "0abc");
        assert_eq!(object["recipient"], "a@b.example");
        assert_eq!(object["level"], "info");
        assert!(object["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn the_journal_gets_fields() {
        let lines = lines(Shape::Journal, false, delivered);
        for field in [
            "MESSAGE=delivered reply=\"250 2.0.0 OK\"",
            "PRIORITY=6\n",
            "GATEPOST_EVENT=delivered\n",
            "GATEPOST_QUEUE_ID=0abc\n",
            "GATEPOST_ELAPSED_MS=12\n",
        ] {
            assert!(lines[0].contains(field), "{field} in {:?}", lines[0]);
        }
    }

    /// Addresses are personal data: at info they need consent, at debug one is looking for them.
    #[test]
    fn addresses_appear_only_where_they_are_asked_for() {
        let events = || {
            let span = tracing::info_span!("transaction", sender = "s@b.example");
            let _entered = span.enter();
            tracing::info!(event = "queued", recipient = "i@b.example");
            tracing::debug!(event = "looked", recipient = "d@b.example");
        };
        let closed = lines(Shape::Json, false, events).join("");
        assert!(!closed.contains("i@b.example"));
        assert!(closed.contains("d@b.example"));
        assert_eq!(closed.matches("s@b.example").count(), 1);
        let open = lines(Shape::Json, true, events).join("");
        assert!(open.contains("i@b.example"));
        assert_eq!(open.matches("s@b.example").count(), 2);
    }

    /// A peer's text must not pass for another line or another field.
    #[test]
    fn a_value_cannot_forge_a_line() {
        let forge = || tracing::info!(event = "x", reply = "250 ok\nPRIORITY=0\nINFO forged");
        for shape in [Shape::Text, Shape::Json] {
            assert_eq!(
                lines(shape, false, forge)[0].matches('\n').count(),
                1,
                "{shape:?}"
            );
        }
        assert!(!lines(Shape::Journal, false, forge)[0].contains("\nPRIORITY=0"));
    }
}
