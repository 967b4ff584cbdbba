//! How long a signature takes to refuse.

use std::{
    hint::black_box,
    time::{Instant, SystemTime},
};

use sendimage::{
    access::Verifier,
    config::{Config, Secret, SigningKeyConfig},
};

use crate::{
    client::{Fields, native, wagtail},
    report::Row,
    tools::{random, scale},
};

const NATIVE: &[u8] = b"0123456789abcdef";
const SITES: &[u8] = b"conformance-secret-key";

/// Samples of two kinds of input in random order, and Welch's t of their times without the slowest tenth.
fn welch(kinds: &[Vec<String>; 2], samples: usize, random: &mut fastrand::Rng, mut take: impl FnMut(&str)) -> f64 {
    let mut times = [Vec::with_capacity(samples), Vec::with_capacity(samples)];
    for number in 0..2 * samples {
        let kind = usize::from(random.bool());
        let input = &kinds[kind][number % kinds[kind].len()];
        let began = Instant::now();
        take(input);
        times[kind].push(began.elapsed().as_nanos() as f64);
    }
    let mut pooled: Vec<f64> = times.iter().flatten().copied().collect();
    pooled.sort_by(f64::total_cmp);
    let most = pooled[pooled.len() * 9 / 10];
    let [a, b] = times.map(|mut times| {
        times.retain(|time| *time <= most);
        let count = times.len() as f64;
        let mean = times.iter().sum::<f64>() / count;
        let variance = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    });
    (a.0 - b.0) / (a.1 + b.1).sqrt()
}

/// T01: how long a signature takes to refuse says nothing about how much of it is right.
#[test]
fn the_time_of_a_refusal_says_nothing() {
    let row = Row::begin("the time of a refusal says nothing", "T01");
    let mut config = Config::default();
    config.signing.keys = vec![SigningKeyConfig {
        id: "first".into(),
        secret: Some(Secret::new(String::from_utf8(NATIVE.to_vec()).unwrap())),
        ..SigningKeyConfig::default()
    }];
    config.signing.wagtail_keys = vec![Secret::new(String::from_utf8(SITES.to_vec()).unwrap())];
    let verifier = Verifier::new(&config).unwrap();
    let refuse = |path: &str| {
        let (route, url) = verifier.table().resolve(path, None).unwrap();
        assert!(black_box(verifier.verify_signature(route, &url, SystemTime::UNIX_EPOCH)).is_err());
    };
    let said = Fields { subject: "42".into(), spec: "fill-100x100".into(), ..Fields::default() };
    let mut random = random("the time of a refusal says nothing");
    let symbols = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let noise = |length: usize, random: &mut fastrand::Rng| -> String {
        (0..length).map(|_| char::from(*random.choice(symbols).unwrap())).collect()
    };
    /// Beyond this two means differ (Reparaz, Balasch, Verbauwhede: dudect).
    const THRESHOLD: f64 = 4.5;
    const ATTEMPTS: usize = 6;
    let samples = scale(15_000, 500_000);
    let mut told = Vec::new();
    for scheme in ["native", "wagtail"] {
        let (good, tail) = match scheme {
            "native" => (native(NATIVE, &said), "/42/fill-100x100/x.jpg"),
            _ => (wagtail(SITES, "42", "fill-100x100"), "/42/fill-100x100/x.jpg"),
        };
        // All of it right but the last two symbols, against nothing right; and both of one length.
        let right = good.trim_end_matches('=').len() - 2;
        let mut kinds = [Vec::new(), Vec::new()];
        for _ in 0..256 {
            let end = noise(2, &mut random);
            let start = noise(right, &mut random);
            let padding = &good[right + 2..];
            kinds[0].push(format!("/images/{}{end}{padding}{tail}", &good[..right]));
            kinds[1].push(format!("/images/{start}{end}{padding}{tail}"));
        }
        kinds[0].retain(|url| !url.contains(&good));
        // A comparison that stops at the first difference is found out by the same measurement.
        let leaky = |url: &str| {
            let given = &url["/images/".len()..];
            refuse(url);
            for (a, b) in given.bytes().zip(good.bytes()) {
                if black_box(a) != black_box(b) {
                    break;
                }
            }
        };
        // Once is enough: a busy machine hides a leak, and never makes one up.
        let control = (0..3).map(|_| welch(&kinds, samples, &mut random, leaky).abs()).fold(0.0, f64::max);
        let mut best = f64::INFINITY;
        for _ in 0..ATTEMPTS {
            let t = welch(&kinds, samples, &mut random, refuse);
            best = best.min(t.abs());
            if best < THRESHOLD {
                break;
            }
        }
        assert!(best < THRESHOLD, "{scheme}: |t| is {best:.1} in the best of {ATTEMPTS} attempts");
        assert!(control > THRESHOLD, "{scheme}: a leaky comparison is not seen: {control:.1}");
        told.push(format!("{scheme}: |t| {best:.1}, of a comparison that stops early {:.0}", control));
    }
    row.passed(&format!("{} verifications for each scheme; {}", 2 * samples, told.join("; ")));
}
