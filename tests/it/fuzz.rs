//! Whole server sessions over mutated octets: what the fuzz target checks, for a moment, on stable.
//!
//! `GATEPOST_FUZZ_ROUNDS` asks for more; the seed of a failing round is printed, and the input is
//! written where cargo-fuzz would write it.

use std::{fs, panic};

use crate::support::{Chance, repository, say};

#[path = "../../fuzz/session.rs"]
mod session;

/// Some seconds of a debug build.
const ROUNDS: u64 = 20_000;
/// What mutations splice in: the words of the protocol, and what looks like the end of something.
const WORDS: [&[u8]; 28] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b".",
    b"\r\n.\r\n",
    b"\n.\n",
    b"\r\n.\r",
    b"\r\n..\r\n",
    b" ",
    b"<",
    b">",
    b"\"",
    b"\\",
    b"@",
    b":",
    b"DATA\r\n",
    b"RSET\r\n",
    b"QUIT\r\n",
    b"STARTTLS\r\n",
    b"AUTH PLAIN AHByaW50ZXIAc2VjcmV0\r\n",
    b"MAIL FROM:<a@b.c> SMTPUTF8\r\n",
    b"RCPT TO:<\"x y\"@z.example>\r\n",
    b"EHLO a\r\n",
    b"BDAT 3 LAST\r\n",
    b" SIZE=5",
    b"\xff",
    b"\xc3\xa9",
];

fn seeds() -> Vec<Vec<u8>> {
    let folder = repository().join("fuzz/seeds/session");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Every seed as it stands.
#[test]
fn seeds_hold() {
    let seeds = seeds();
    assert!(seeds.len() >= 20, "the seeds are missing");
    for seed in &seeds {
        for settings in 0..64 {
            let mut input = seed.clone();
            input[0] = settings;
            session::check(&input);
        }
    }
}

#[test]
fn mutated_sessions_hold() {
    let rounds = std::env::var_os("GATEPOST_FUZZ_ROUNDS");
    let rounds = rounds.map_or(ROUNDS, |rounds| rounds.to_str().unwrap().parse().unwrap());
    let seeds = seeds();
    // Another beginning each time; told, so that a failure can be had again.
    let start = Chance::new().next();
    say(&format!("rounds {start} to {}", start.wrapping_add(rounds)));
    for round in 0..rounds {
        let seed = start.wrapping_add(round);
        let input = mutated(&seeds, &mut Chance::seeded(seed));
        if let Err(panicked) = panic::catch_unwind(|| session::check(&input)) {
            let file = std::env::temp_dir().join(format!("session-{seed}"));
            fs::write(&file, &input).unwrap();
            say(&format!(
                "round {seed}: {} in {}",
                String::from_utf8_lossy(&input),
                file.display()
            ));
            panic::resume_unwind(panicked);
        }
    }
}

fn mutated(seeds: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let below = |chance: &mut Chance, bound: usize| {
        usize::try_from(chance.below(u64::try_from(bound.max(1)).unwrap())).unwrap()
    };
    let mut input = seeds[below(chance, seeds.len())].clone();
    for _ in 0..=below(chance, 8) {
        let at = 2 + below(chance, input.len() - 1).min(input.len() - 2);
        let to = at + below(chance, (input.len() - at).min(40) + 1);
        match chance.below(6) {
            0 => drop(input.splice(at..at, WORDS[below(chance, WORDS.len())].iter().copied())),
            1 => drop(input.drain(at..to)),
            2 => {
                let piece = input[at..to].to_vec();
                for _ in 0..below(chance, 40) {
                    input.splice(at..at, piece.iter().copied());
                }
            }
            3 if at < input.len() => input[at] = u8::try_from(chance.below(256)).unwrap(),
            4 => {
                let other = &seeds[below(chance, seeds.len())];
                let from = 2 + below(chance, other.len() - 2);
                input.splice(at..at, other[from..].iter().copied());
            }
            _ => input[1] = u8::try_from(chance.below(256)).unwrap(),
        }
    }
    input[0] = u8::try_from(chance.below(64)).unwrap();
    input
}
