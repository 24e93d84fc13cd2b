//! Row 27: the connection ends within the final reply, by a close and by a reset.

use serde_json::json;

use super::{By, Rig, TO, addressed};
use crate::support::eventually;

/// Octets of `250 2.0.0 ok, 1 in the sandbox` that come; the last one is its CR.
const OCTETS: [u16; 7] = [0, 1, 3, 4, 12, 30, 31];

/// A reply that is not whole says nothing: the message may have been taken. It is tried again as it is,
/// and counted. One that is whole counts, however the connection ends then.
#[test]
fn a_final_reply_cut_off_at_any_octet_leaves_the_message_uncertain() {
    let rig = Rig::start(By::Application, "smtp", "");
    let mut copies = 0;
    let cases = OCTETS
        .into_iter()
        .flat_map(|octets| [false, true].map(|reset| (octets, reset)));
    let mut uncertain = 0;
    for (octets, reset) in cases {
        let case = format!("{octets} octets, reset: {reset}");
        rig.play(&json!({"fault": "cut", "octets": octets, "reset": reset, "times": 1}));
        rig.submit(&[TO], &addressed(TO, ""));
        let entry = eventually("the outcome is not known", || {
            let queue = rig.site.queue();
            let entry = queue.first()?;
            (entry["state"] == "uncertain").then(|| entry.clone())
        });
        assert_eq!(entry["attempts"], 1, "{case}: {entry}");
        uncertain += 1;
        eventually("it is tried again and goes", || {
            rig.site.cli(&["queue", "retry", "--account", "practice"]);
            rig.site.queue().is_empty().then_some(())
        });
        let taken = rig.taken(copies + 2);
        assert_eq!(taken.len(), copies + 2, "{case}: this one twice");
        assert_eq!(rig.octets(copies + 1), rig.octets(copies + 2), "{case}");
        copies += 2;
    }
    for reset in [false, true] {
        rig.play(&json!({"fault": "cut", "octets": 1000, "reset": reset, "times": 1}));
        rig.submit(&[TO], &addressed(TO, ""));
        rig.site.wait_empty();
        copies += 1;
        assert_eq!(rig.taken(copies).len(), copies, "once, reset: {reset}");
    }
    let (_, metrics) = rig.site.get("/metrics").unwrap();
    let counted = format!("gatepost_possible_duplicates_total {uncertain}\n");
    assert!(metrics.contains(&counted), "{counted}: {metrics}");
    rig.site.wait_account("practice", "ready");
}
