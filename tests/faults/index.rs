//! Every threat (T01 to T35) and fault (F01 to F40) of our list: each is shown to be met by a test, or is said to be open.
//!
//! A test of this binary names its own when it begins ([`Row::begin`](crate::report::Row::begin)). This file has the others.

/// Shown elsewhere: where, as a file and a word in it.
const ELSEWHERE: [(&str, &str, &str); 13] = [
    ("T16", "tests/suite/http_source.rs", "every_bad_answer_has_its_status_within_its_time_and_nothing_is_stored"),
    ("F18", "tests/suite/http_source.rs", "a_site_that_is_away_is_left_alone_and_found_again"),
    ("T17", "tests/suite/tokens.rs", "every_token_of_the_vectors_has_its_verdict_at_the_service"),
    ("T18", "tests/suite/tokens.rs", "header_cookie_and_query_agree_or_count_for_nothing"),
    ("T19", "tests/suite/tokens.rs", "private_and_public_share_the_bytes_and_not_the_caching"),
    ("T20", "tests/suite/forward.rs", "every_answer_of_the_site_has_its_status"),
    ("F18", "tests/suite/s3.rs", "every_failure_of_an_original_has_its_status"),
    ("F19", "tests/suite/s3.rs", "a_put_that_fails_leaves_nothing_to_be_seen"),
    ("T32", "tests/run", "advisories"),
    // Old renditions after their original was replaced or has gone.
    ("T33", "tests/suite/hits.rs", "a_replaced_original_is_seen_at_once_in_every_mode"),
    ("T34", "tests/suite/gc.rs", "two_gcs_beside_renders_remove_each_file_once"),
    ("F34", "tests/suite/gc.rs", "two_gcs_beside_renders_remove_each_file_once"),
    ("F39", "tests/suite/gc.rs", "damaged_files_of_every_format_are_found_and_made_again"),
];

/// There is nothing yet that they could happen to: name and why.
const NOT_YET: [(&str, &str); 0] = [];

#[test]
fn every_threat_and_fault_is_met_or_open() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    for entry in std::fs::read_dir(root.join("tests/faults")).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("index.rs") {
            sources += &std::fs::read_to_string(path).unwrap();
        }
    }
    // Each begins with a name and the list of what it shows.
    let mut shown = Vec::new();
    for begun in sources.split("Row::begin(").skip(1) {
        let list = begun.split('"').nth(3).unwrap();
        shown.extend(list.split(' ').map(str::to_owned));
    }
    for (id, file, word) in ELSEWHERE {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        assert!(text.contains(word), "{id}: {word:?} is not in {file}");
    }
    let ids = (1..=35).map(|number| format!("T{number:02}")).chain((1..=40).map(|number| format!("F{number:02}")));
    for id in ids {
        let elsewhere = ELSEWHERE.iter().any(|(other, ..)| *other == id);
        let open = NOT_YET.iter().any(|(other, _)| *other == id);
        let met = shown.contains(&id) || elsewhere;
        assert!(
            met != open,
            "{id} is {}",
            if met { "met and said to be open" } else { "neither met nor said to be open" }
        );
    }
}
