//! The pages of the queue and the trace, as a person uses them: search, page, operate, look, take away.

use std::{fs, io::Read};

use serde_json::Value;

use crate::support::{
    browser::Browser,
    eventually,
    mail::{assert_same, filler, message},
    relay::Site,
    sink::Sink,
    smtp::Client,
};

/// What a stranger would like a page to do.
const SCRIPT: &str = "<script>alert(1)</script>";

/// A site that tries once in an hour, with an upstream that is busy.
fn busy(sink: &Sink) -> Site {
    sink.answer_mail(Some("451 4.7.500 busy"));
    let site = Site::plain(sink);
    site.edit(
        "retry_first = \"1s\"\nretry_max = \"2s\"",
        "retry_first = \"1h\"\nretry_max = \"1h\"",
    );
    site
}

/// Submits a message each for `recipients`, of which each names itself in its subject.
fn submit(site: &Site, sender: &str, recipients: &[&str]) {
    let mut client = Client::ehlo(site.smtp).unwrap();
    for recipient in recipients {
        let message = message(recipient, b"Hello.\r\n");
        let sent = client.send(sender, &[*recipient], &message).unwrap();
        sent.expect(250).unwrap();
    }
}

/// The ids that a page of the list shows.
fn listed(page: &str) -> Vec<String> {
    let links = page.split("name=\"id\" value=\"").skip(1);
    links
        .map(|rest| rest.split_once('"').unwrap().0.to_owned())
        .collect()
}

fn state_of(site: &Site, id: &str) -> Option<String> {
    let queue = site.queue();
    let entry = queue.iter().find(|entry| entry["id"] == id)?;
    Some(entry["state"].as_str().unwrap().to_owned())
}

/// What is searched is found, and a long list comes in pages without gaps or doubles.
#[test]
fn the_queue_is_searched_and_paged() {
    let sink = Sink::start();
    let site = busy(&sink);
    let _relay = site.start();
    let browser = Browser::logged_in(&site);
    let empty = browser.get("/queue").body;
    assert!(empty.contains("The queue is empty"), "{empty}");

    let many: Vec<String> = (0..60).map(|n| format!("r{n}@example.org")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    submit(&site, "app@example.test", &many);
    submit(&site, "erp@other.test", &["boss@example.com"]);
    let (first, second) = {
        let first = browser.get("/queue").body;
        let (_, next) = first.split_once("href=\"/queue?after=").unwrap();
        let next = format!("/queue?after={}", next.split_once('"').unwrap().0);
        (listed(&first), listed(&browser.get(&next).body))
    };
    assert_eq!((first.len(), second.len()), (50, 11));
    let mut all: Vec<String> = first.into_iter().chain(second).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 61);

    let count = |query: &str| listed(&browser.get(&format!("/queue?{query}")).body).len();
    assert_eq!(count("q=boss"), 1);
    assert_eq!(count("sender=erp%40other.test"), 1);
    assert_eq!(count("sender=rp%40other.test"), 0, "a whole address");
    assert_eq!(count("recipient=r5"), 11);
    assert_eq!(count("account=alerts&recipient=*%40example.com"), 1);
    assert_eq!(count("account=nobody"), 0);
    assert_eq!(count("state=held"), 0);
    let last = all.last().unwrap();
    assert_eq!(count(&format!("q={last}")), 1);
    // The API and the command line know recipients as well.
    let api = browser.get("/api/v1/queue?recipient=boss*").body;
    let api: Value = serde_json::from_str(&api).unwrap();
    assert_eq!(api["entries"].as_array().unwrap().len(), 1);
    assert_eq!(
        site.json(&["queue", "list", "--recipient", "boss*"]).len(),
        1
    );
}

/// Only an operator's stop waits for a release: what the provider has refused is tried again.
#[test]
fn what_waits_for_a_release_says_so() {
    let sink = Sink::start();
    sink.answer_mail(Some("530 5.7.57 Client not authenticated to send mail"));
    let site = Site::plain(&sink);
    let _relay = site.start();
    let browser = Browser::logged_in(&site);
    submit(&site, "app@example.test", &["a@x.example"]);
    site.wait_account("alerts", "held");
    let waits = "when account alerts is released";
    let page = || browser.get("/queue").body;
    assert!(!page().contains(waits), "{}", page());
    browser.submit("/accounts/alerts", "/accounts/alerts/hold", &[]);
    assert!(page().contains(waits), "{}", page());
    let [id] = &*listed(&page()) else {
        panic!("{}", page())
    };
    let message = browser.get(&format!("/queue/{id}")).body;
    assert!(message.contains(waits), "{message}");
}

/// Ticked messages are held, released, tried and deleted; a deletion asks first.
#[test]
fn ticked_messages_are_operated_on() {
    let sink = Sink::start();
    let site = busy(&sink);
    let _relay = site.start();
    let browser = Browser::logged_in(&site);
    submit(&site, "app@example.test", &["a@x.example", "b@x.example"]);
    eventually("one was tried", || {
        browser
            .get("/queue")
            .body
            .contains("451 4.7.500 busy")
            .then_some(())
    });
    let ids = listed(&browser.get("/queue").body);
    let [one, two] = ids.as_slice() else {
        panic!("{ids:?}")
    };

    browser.submit("/queue", "/queue/hold", &[("id", one)]);
    let page = browser.get("/queue").body;
    assert!(page.contains("1 message held."), "{page}");
    assert!(page.contains("held by an operator"), "{page}");
    assert!(page.contains("release it to send it"), "{page}");
    assert_eq!(state_of(&site, one).unwrap(), "held");

    // One of two fits: both are told.
    let answer = browser.submit("/queue", "/queue/release", &[("id", one), ("id", two)]);
    assert_eq!(answer.field("location"), Some("/queue"));
    assert!(
        browser
            .get("/queue")
            .body
            .contains("1 of 2 messages released")
    );
    assert_ne!(state_of(&site, one).unwrap(), "held");

    browser.submit("/queue", "/queue/retry", &[]);
    let page = browser.get("/queue").body;
    assert!(page.contains("No message is ticked"), "{page}");

    let page = format!("/queue/{two}");
    let from = [("id", two.as_str()), ("from", "message")];
    let asked = browser.submit(&page, "/queue/delete", &from);
    assert!(asked.body.contains("Delete 1 message?"), "{}", asked.body);
    let named = format!("<li>{two}: app@example.test to b@x.example</li>");
    assert!(asked.body.contains(&named), "{}", asked.body);
    assert!(
        asked.body.contains(&format!("href=\"{page}\"")),
        "{}",
        asked.body
    );
    assert!(state_of(&site, two).is_some(), "asked first");
    let yes = [from.as_slice(), &[("confirmed", "yes")]].concat();
    let deleted = browser.submit(&page, "/queue/delete", &yes);
    assert_eq!(deleted.field("location"), Some("/queue"));
    assert_eq!(state_of(&site, two), None);
    // Its page tells what happened; one that never was is not there.
    let gone = browser.get(&page);
    assert_eq!(gone.status, 200);
    assert!(
        gone.body.contains("no longer in the queue"),
        "{}",
        gone.body
    );
    assert!(
        gone.body.contains("deleted by an operator"),
        "{}",
        gone.body
    );
    assert_eq!(browser.get("/queue/0000000000000").status, 404);
    assert_eq!(browser.get("/queue/nonsense").status, 404);
    site.log_with("POST /queue/delete");
}

/// All that a search finds is operated on in the background, and nothing that came later; the page
/// says how far it is and how it ended.
#[test]
fn all_that_match_are_operated_on() {
    let sink = Sink::start();
    let site = busy(&sink);
    let _relay = site.start();
    let browser = Browser::logged_in(&site);
    // More than are looked at and operated on at once.
    let many: Vec<String> = (0..560).map(|n| format!("r{n}@example.org")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    submit(&site, "app@example.test", &many);
    submit(&site, "app@example.test", &["other@x.example"]);
    let search = [("recipient", "@example.org"), ("all", "yes")];
    browser.submit("/queue", "/queue/hold", &search);
    let page = eventually("the run has ended", || {
        let page = browser.get("/queue?recipient=%40example.org").body;
        page.contains("messages held").then_some(page)
    });
    assert!(
        page.contains("messages with recipient @example.org"),
        "{page}"
    );
    let is_held = |entry: &&Value| entry["state"] == "held";
    eventually("all but those under way are held", || {
        let held = site.queue().iter().filter(is_held).count();
        // A message that was just being delivered is left alone, and told.
        (550..=560).contains(&held).then_some(())
    });
    site.log_with("queue_run");

    // What comes between the question and the answer is not deleted.
    let held = [("state", "held"), ("all", "yes")];
    let asked = browser.submit("/queue", "/queue/delete", &held);
    let (_, until) = asked.body.split_once("name=\"until\" value=\"").unwrap();
    let until = until.split_once('"').unwrap().0;
    assert!(
        asked.body.contains("Delete messages with state held: "),
        "{}",
        asked.body
    );
    submit(&site, "app@example.test", &["late@x.example"]);
    let late = site.queue();
    let late = late.last().unwrap()["id"].as_str().unwrap();
    eventually("the late one is held", || {
        browser.submit("/queue", "/queue/hold", &[("id", late)]);
        (state_of(&site, late)? == "held").then_some(())
    });
    let yes = [held.as_slice(), &[("until", until), ("confirmed", "yes")]].concat();
    browser.submit("/queue", "/queue/delete", &yes);
    eventually("they are deleted", || {
        let queue = site.queue();
        (queue.iter().filter(is_held).count() == 1).then_some(())
    });
    assert!(site.queue().iter().any(|entry| entry["id"] == late));
    assert!(browser.get("/queue").body.contains("messages deleted"));
    let stopped = browser.submit("/queue", "/queue/runs/77/stop", &[]);
    assert_eq!(stopped.field("location"), Some("/queue"));
    assert!(browser.get("/queue").body.contains("no longer known"));
}

/// What is taken away is what `queue import` takes back, small and large.
#[test]
fn an_export_comes_back() {
    let sink = Sink::start();
    let site = busy(&sink);
    let _relay = site.start();
    let browser = Browser::logged_in(&site);
    let small = message("small", "caf\u{e9}\r\n.\r\n".as_bytes());
    let large = message("large", &filler(7, 700_000));
    site.submit(&small);
    site.submit(&large);
    site.cli(&["queue", "hold", "--all"]);
    eventually("both are held", || {
        site.cli(&["queue", "hold", "--all"]);
        site.queue()
            .iter()
            .all(|e| e["state"] == "held")
            .then_some(())
    });
    let before = site.queue();

    let id = before[0]["id"].as_str().unwrap();
    let page = format!("/queue/{id}");
    let (head, octets) = browser.download(&page, &format!("{page}/message"), &[]);
    assert_same("download", &small, &octets);
    let head = head.to_ascii_lowercase();
    let disposition = format!("content-disposition: attachment; filename=\"{id}.eml\"");
    for wanted in [disposition.as_str(), "x-content-type-options: nosniff"] {
        assert!(head.contains(wanted), "{head}");
    }
    let (_, envelope) = browser.download(&page, &format!("{page}/envelope"), &[]);
    let envelope: Value = serde_json::from_slice(&envelope).unwrap();
    assert_eq!(envelope["id"], id);

    let (head, archive) = browser.download("/queue", "/queue/export", &[("all", "yes")]);
    assert!(head.to_ascii_lowercase().contains(".tar\""), "{head}");
    let dir = site.path().join("export");
    let mut archive = tar::Archive::new(archive.as_slice());
    archive.unpack(&dir).unwrap();
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 4);
    site.cli(&["queue", "delete", "--all"]);
    let said = site.cli(&["queue", "import", dir.to_str().unwrap()]);
    assert!(said.contains("2 messages imported"), "{said}");
    assert_eq!(site.queue(), before);

    // Ticked ones alone; a message that is gone is left out.
    let ticked = [("id", id), ("id", "0000000000000")];
    let (_, archive) = browser.download("/queue", "/queue/export", &ticked);
    let mut archive = tar::Archive::new(archive.as_slice());
    let mut names = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut octets = Vec::new();
        entry.read_to_end(&mut octets).unwrap();
        names.push(entry.path().unwrap().display().to_string());
    }
    assert_eq!(names, [format!("{id}.eml"), format!("{id}.json")]);
}

/// A message that wants to be a page, with more of a header than is shown.
fn nasty() -> String {
    let mut bomb = String::new();
    for line in 0..1200 {
        bomb.push_str(&format!("X-Bomb-{line}: {}\r\n", "<b>".repeat(20)));
    }
    format!(
        "Date: Tue, 24 Nov 2026 09:00:00 +0000\r\nFrom: {SCRIPT} <app@example.test>\r\n\
         To: rcpt@example.org\r\nMessage-ID: <x@app.example.test>\r\nSubject: {SCRIPT}\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/html; charset=utf-8\r\n{bomb}\r\n\
         {SCRIPT}<img src=x onerror=alert(2)>\r\n"
    )
}

/// A message that wants to be a page is shown as text, and only so much of it; whoever reads its body
/// is in the log.
#[test]
fn a_message_is_text() {
    let sink = Sink::start();
    let site = busy(&sink);
    sink.answer_mail(Some(&format!("451 4.7.500 {SCRIPT} busy")));
    let _relay = site.start();
    let browser = Browser::logged_in(&site);
    let mut client = Client::ehlo(site.smtp).unwrap();
    let to = ["\"<img/src=x>\"@example.org"];
    let sent = client.send("\"<script>\"@example.test", &to, nasty().as_bytes());
    sent.unwrap().expect(250).unwrap();
    eventually("it was tried", || {
        let page = browser.get("/queue").body;
        page.contains("script&#62; busy").then_some(())
    });
    let ids = listed(&browser.get("/queue").body);
    let path = format!("/queue/{}", ids[0]);
    let query = "/queue?q=%3Cscript%3E&sender=%22%3E%3Cscript%3E&state=%22%3E%3Cscript%3E";
    let pages = [
        browser.get(&path),
        browser.get("/queue"),
        browser.get(query),
        browser.get("/trace"),
        browser.get("/trace?q=%3Cscript%3E&since=%22%3E%3Cscript%3E"),
        browser.submit(&path, &format!("{path}/body"), &[]),
    ];
    for page in &pages {
        assert_eq!(
            page.status,
            if page.body.contains("is no time") {
                422
            } else {
                200
            }
        );
        for active in ["<script>", "<img", "<b>"] {
            assert!(!page.body.contains(active), "{active}: {}", page.body);
        }
    }
    let [shown, .., body] = &pages;
    assert!(
        shown.body.contains("Subject: &#60;script&#62;alert(1)"),
        "{}",
        shown.body
    );
    assert!(shown.body.contains("X-Bomb-1:"), "{}", shown.body);
    assert!(!shown.body.contains("X-Bomb-1199:"), "bounded");
    assert!(
        shown.body.contains("The header section goes on"),
        "{}",
        shown.body
    );
    assert!(
        !shown.body.contains("onerror"),
        "no body before it is asked for"
    );
    assert!(body.body.contains("onerror"), "{}", body.body);

    let log = site.log_with("message read");
    let read: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("message read"))
        .collect();
    let [read] = read.as_slice() else {
        panic!("{read:?}")
    };
    assert!(
        read.contains(&ids[0]) && read.contains("one-time code from 127.0.0.1"),
        "{read}"
    );
}

/// The trace tells what became of messages and leads to the queue while they are there.
#[test]
fn the_trace_tells_stories() {
    let sink = Sink::start();
    let site = busy(&sink);
    let _relay = site.start();
    let browser = Browser::logged_in(&site);
    submit(&site, "app@example.test", &["a@x.example", "b@x.example"]);
    eventually("one was tried", || {
        browser
            .get("/queue")
            .body
            .contains("451 4.7.500 busy")
            .then_some(())
    });
    let found = |query: &str| {
        let page = browser.get(&format!("/trace?{query}"));
        assert_eq!(page.status, 200, "{}", page.body);
        let count = page.body.matches("<summary>").count();
        (count, page.body)
    };
    let (count, page) = eventually("what happened is in the trace", || {
        let (count, page) = found("recipient=a%40x.example");
        page.contains("received from").then_some((count, page))
    });
    assert_eq!(count, 1);
    assert!(page.contains("see it in the queue"), "{page}");
    assert!(page.contains("<details open>"), "the only one: {page}");
    assert_eq!(found("").0, 2);
    assert_eq!(found("account=alerts").0, 2);
    assert_eq!(found("account=nobody").0, 0);
    assert_eq!(found("until=2026-01-01T00:00").0, 0);
    assert_eq!(found("outcome=delivered").0, 0);
    assert_eq!(browser.get("/trace?since=yesterday").status, 422);

    sink.answer_mail(None);
    site.cli(&["queue", "retry", "--account", "alerts"]);
    site.wait_empty();
    let (count, page) = eventually("both are delivered", || {
        let (count, page) = found("outcome=delivered");
        (count == 2).then_some((count, page))
    });
    assert_eq!(count, 2);
    assert!(!page.contains("see it in the queue"), "{page}");
    assert!(page.contains("delivered: a@x.example"), "{page}");
    let stories = site.json(&["trace", "--account", "alerts"]);
    assert_eq!(stories.len(), 2);
}
