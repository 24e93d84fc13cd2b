//! A running `gatepost login`: what it prints, and what a person types.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use super::{
    eventually,
    process::{Process, guarded},
    program,
    relay::{Site, bare},
    repository,
    secrets::Transcript,
};

/// A running `gatepost login`.
#[derive(Debug)]
pub(crate) struct Login {
    process: Process,
    lines: Receiver<String>,
    said: Vec<String>,
    transcript: Transcript,
}

impl Login {
    /// Starts it.
    pub(crate) fn start(site: &Site, arguments: &[&str]) -> Self {
        Self::run(site, &site.command(arguments))
    }

    /// Starts it on a terminal, with nothing of a desktop around: what is typed goes to that terminal.
    pub(crate) fn on_terminal(site: &Site, arguments: &[&str]) -> Self {
        let verb = site.command(arguments);
        let mut command = Command::new(program("python3", "python3"));
        command
            .arg(repository().join("tests/interop/rig/terminal.py"))
            .arg(verb.get_program())
            .args(verb.get_args());
        bare(&mut command);
        Self::run(site, &command)
    }

    fn run(site: &Site, command: &Command) -> Self {
        let mut command = guarded(command);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = Process::from_child("login", command.spawn().unwrap(), &site.log());
        let (sender, lines) = channel();
        let child = process.child();
        let pipes: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ];
        for pipe in pipes {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    // The test may have seen enough.
                    let _unheard = sender.send(line);
                }
            });
        }
        Self {
            process,
            lines,
            said: Vec::new(),
            transcript: site.transcript.clone(),
        }
    }

    /// Waits for a word that begins so, in what is printed.
    pub(crate) fn word(&mut self, is: impl Fn(&str) -> bool) -> String {
        eventually("login says what to do", || {
            self.said.extend(self.lines.try_iter());
            let words = self.said.iter().flat_map(|line| line.split_whitespace());
            words
                .map(|word| word.trim_matches(['"', '<', '>', '.']))
                .find(|word| is(word))
                .map(Into::into)
        })
    }

    /// Waits for the address to open.
    pub(crate) fn url(&mut self, prefix: &str) -> String {
        self.word(|word| word.starts_with(prefix))
    }

    /// Waits until this is printed.
    pub(crate) fn says(&mut self, text: &str) {
        eventually(&format!("login says {text:?}"), || {
            self.said.extend(self.lines.try_iter());
            self.said.join("\n").contains(text).then_some(())
        });
    }

    /// Types a line.
    pub(crate) fn paste(&mut self, line: &str) {
        let stdin = self.process.child().stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
    }

    fn ends(&mut self) -> (Option<i32>, String) {
        let status = self.process.wait();
        // Both readers end with the process; what they read is complete then.
        self.said.extend(self.lines.iter());
        self.transcript.add(self.said.join("\n"));
        (status.code(), self.said.join("\n"))
    }

    /// Waits until it has signed in; what it said.
    pub(crate) fn succeeds(mut self) -> String {
        let (code, said) = self.ends();
        assert_eq!(code, Some(0), "{said}");
        said
    }

    /// Waits until it was refused; what it says.
    pub(crate) fn refused(mut self) -> String {
        let (code, said) = self.ends();
        assert_eq!(code, Some(1), "{said}");
        said
    }
}
