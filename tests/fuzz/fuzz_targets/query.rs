//! The query of a native URL, under a good path.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sendimage::access::SignedUrl;

fuzz_target!(|query: &str| {
    let url = SignedUrl::split("SIGNATURE/42/width-1/", Some(query)).expect("a query never spoils the path");
    let fields = url.query;
    if fields.problem.is_none() {
        let given = query.split('&').filter(|pair| !pair.is_empty()).count();
        let taken = [fields.expires.is_some(), fields.download.is_some()].map(usize::from).iter().sum::<usize>() + fields.tokens.len();
        assert_eq!(given, taken, "{query:?}");
    }
    for value in [fields.expires, fields.download].into_iter().flatten() {
        assert!(!value.is_empty() && !value.contains(char::is_control), "{query:?}");
    }
});
