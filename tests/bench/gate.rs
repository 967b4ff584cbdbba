//! What a request costs the gate, step by step and as a whole, without sockets.
//!
//! `cargo bench --bench gate` measures; `cargo bench --bench gate -- --test` runs each once.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    hint::black_box,
    path::Path,
    process::ExitCode,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use divan::Bencher;
use hyper::{HeaderMap, Method, Uri, header::AUTHORIZATION};
use sendimage::{
    access::{
        Link, Scheme, Subject, Verifier,
        token::{Minted, Tokens, mint},
    },
    app::{self, App},
    config::{
        AuthMode, Config, Existence, JwtConfig, Secret, SigningKeyConfig, SourceConfig, TokenAlgorithm, TokenKeyConfig,
    },
    http::serve,
    metrics::Outcome,
    model::{ImageFormat, Orientation, Size, SourceFacts},
    render::Plan,
    renditions::flight::{Flights, Role},
    spec::{FilterSpec, MAX_BYTES},
    workers::{self, Marks},
};

fn main() -> ExitCode {
    // The whole request's service starts its workers from this program.
    if let Some(code) = workers::run_as_child() {
        return code;
    }
    divan::main();
    ExitCode::SUCCESS
}

/// A config with so many native keys.
fn config(keys: usize) -> Config {
    let mut config = Config::default();
    config.signing.keys = (0..keys)
        .map(|number| SigningKeyConfig {
            id: format!("key-{number}"),
            secret: Some(Secret::new(format!("0123456789abcdef-{number}"))),
            ..SigningKeyConfig::default()
        })
        .collect();
    config.signing.wagtail_keys = vec![Secret::new("a site's SECRET_KEY, fifty characters long or so".into())];
    config
}

fn signed(verifier: &Verifier, scheme: Scheme, subject: &Subject<'_>, spec: &str) -> String {
    verifier.sign(&verifier.table().routes()[0], scheme, &Link::new(subject, spec), SystemTime::now()).unwrap()
}

const SPEC: &str = "fill-400x300|format-webp|webpquality-70";

fn path() -> Subject<'static> {
    Subject::Path { source: "media".into(), path: "original_images/2026/07/beach.jpg".into() }
}

/// From the raw target to the proof, or to the refusal.
mod proof {
    use super::*;

    fn bench(bencher: Bencher<'_, '_>, keys: usize, good: bool, target: impl FnOnce(&Verifier) -> String) {
        let verifier = Verifier::new(&config(keys)).unwrap();
        let target = target(&verifier);
        let now = SystemTime::now();
        let verify = || match verifier.table().resolve(black_box(&target), None) {
            Ok((route, url)) => verifier.verify_signature(route, &url, now).is_ok(),
            Err(_) => false,
        };
        assert_eq!(verify(), good);
        bencher.bench_local(verify);
    }

    #[divan::bench]
    fn native(bencher: Bencher<'_, '_>) {
        bench(bencher, 1, true, |verifier| signed(verifier, Scheme::Native, &path(), SPEC));
    }

    #[divan::bench]
    fn wagtail(bencher: Bencher<'_, '_>) {
        bench(bencher, 1, true, |verifier| signed(verifier, Scheme::Wagtail, &Subject::Id("42".into()), SPEC));
    }

    #[divan::bench]
    fn native_with_twenty_keys(bencher: Bencher<'_, '_>) {
        bench(bencher, 20, true, |verifier| signed(verifier, Scheme::Native, &path(), SPEC));
    }

    #[divan::bench]
    fn forged(bencher: Bencher<'_, '_>) {
        bench(bencher, 1, false, |verifier| {
            signed(verifier, Scheme::Native, &path(), SPEC).replace("400x300", "401x300")
        });
    }

    #[divan::bench]
    fn signature_of_no_scheme(bencher: Bencher<'_, '_>) {
        bench(bencher, 1, false, |_| format!("/images/{}/42/{SPEC}/x.jpg", "A".repeat(8000)));
    }

    #[divan::bench]
    fn deepest_path(bencher: Bencher<'_, '_>) {
        let subject = Subject::Path { source: "media".into(), path: vec!["a"; 2000].join("/").into() };
        bench(bencher, 1, true, |verifier| signed(verifier, Scheme::Native, &subject, SPEC));
    }

    #[divan::bench]
    fn every_character_escaped(bencher: Bencher<'_, '_>) {
        let subject = Subject::Path { source: "media".into(), path: "ü".repeat(1000).into() };
        bench(bencher, 1, true, |verifier| signed(verifier, Scheme::Native, &subject, SPEC));
    }
}

/// From a token's text to what it allows. The keys are those of the vectors; their tokens are good until 2100.
mod token {
    use super::*;

    fn tokens() -> (Tokens, serde_json::Value) {
        let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/tokens/tokens.json");
        let vectors: serde_json::Value = serde_json::from_slice(&std::fs::read(vectors).unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = |kid: &str| {
            let path = folder.path().join(kid);
            std::fs::write(&path, vectors["keys"][kid].as_str().unwrap()).unwrap();
            Some(path)
        };
        let key = |kid: &str, algorithm, secret_file, public_key_file| {
            let (secret, secret_base64) = (None, None);
            TokenKeyConfig { kid: kid.into(), algorithm, secret, secret_base64, secret_file, public_key_file }
        };
        let keys = vec![
            key("hs", TokenAlgorithm::HS256, file("hs"), None),
            key("rs", TokenAlgorithm::RS256, None, file("rs")),
            key("es", TokenAlgorithm::ES256, None, file("es")),
            key("ed", TokenAlgorithm::EdDSA, None, file("ed")),
        ];
        let (audience, issuer) = (Some("images".into()), Some("https://site.example".into()));
        (Tokens::new(&JwtConfig { keys, audience, issuer, ..JwtConfig::default() }).unwrap(), vectors)
    }

    fn token<'v>(vectors: &'v serde_json::Value, name: &str) -> &'v str {
        let mut rows = vectors["rows"].as_array().unwrap().iter();
        rows.find(|row| row["name"] == name).unwrap()["token"].as_str().unwrap()
    }

    #[divan::bench]
    fn remembered(bencher: Bencher<'_, '_>) {
        let (tokens, vectors) = tokens();
        let (token, now) = (token(&vectors, "ES256"), SystemTime::now());
        assert!(tokens.check_now(token, now).is_ok());
        bencher.bench_local(|| tokens.check_now(black_box(token), now).is_ok());
    }

    /// As the first of a visitor's requests finds it: nothing is remembered.
    #[divan::bench(args = ["HS256", "RS256", "ES256", "EdDSA"])]
    fn first_seen(bencher: Bencher<'_, '_>, name: &str) {
        let (checker, vectors) = tokens();
        let (token, now) = (token(&vectors, name), SystemTime::now());
        bencher
            .with_inputs(|| checker.forget())
            .bench_local_values(|()| checker.check_now(black_box(token), now).is_ok());
    }

    #[divan::bench(args = ["HS256 by another key", "ES256 by another key", "none", "dots"])]
    fn refused(bencher: Bencher<'_, '_>, name: &str) {
        let (tokens, vectors) = tokens();
        let (token, now) = (token(&vectors, name), SystemTime::now());
        assert!(tokens.check_now(token, now).is_err());
        bencher.bench_local(|| tokens.check_now(black_box(token), now).is_err());
    }
}

mod spec {
    use super::*;

    fn bench(bencher: Bencher<'_, '_>, text: &str, good: bool) {
        assert_eq!(FilterSpec::parse(text).is_ok(), good, "{text}");
        bencher.bench_local(|| FilterSpec::parse(black_box(text)));
    }

    #[divan::bench]
    fn short(bencher: Bencher<'_, '_>) {
        bench(bencher, "fill-100x100", true);
    }

    #[divan::bench]
    fn longest(bencher: Bencher<'_, '_>) {
        let mut text = ["crop-1,2,3,4"; 15].join("|") + "|width-";
        text.push_str(&"1".repeat(MAX_BYTES - text.len()));
        bench(bencher, &text, FilterSpec::parse(&text).is_ok());
    }

    #[divan::bench]
    fn wrong_at_its_very_end(bencher: Bencher<'_, '_>) {
        bench(bencher, &("fill-1_0x1_0".to_owned() + &"-c5".repeat(80) + "-x"), false);
    }

    #[divan::bench]
    fn hyphens_and_bars(bencher: Bencher<'_, '_>) {
        bench(bencher, &"-|".repeat(MAX_BYTES / 2), false);
    }
}

#[divan::bench]
fn plan(bencher: Bencher<'_, '_>) {
    let defaults = app::defaults(&Config::default().render, &Marks::default());
    let facts = SourceFacts {
        format: ImageFormat::Jpeg,
        stored_size: Size::new(4000, 3000),
        orientation: Orientation::Rotate90,
        frames: 1,
        bytes_per_pixel: 3,
        progressive: false,
        document: None,
    };
    let spec = FilterSpec::parse(SPEC).unwrap();
    bencher.bench_local(|| Plan::new(black_box(&facts), black_box(&spec), None, &defaults).unwrap());
}

/// A thousand who ask for the same at once: one works, and all have it.
#[divan::bench(sample_count = 20)]
fn flight_of_a_thousand(bencher: Bencher<'_, '_>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    bencher.bench_local(|| {
        runtime.block_on(async {
            let flights = Arc::new(Flights::<u32, u32>::default());
            let join = |flights: Arc<Flights<u32, u32>>| async move {
                let work = |_| async {
                    tokio::task::yield_now().await;
                    7
                };
                flights.join(&1, work).await.unwrap()
            };
            let asks: Vec<_> = (0..1000).map(|_| tokio::spawn(join(flights.clone()))).collect();
            let mut leaders = 0;
            for ask in asks {
                leaders += usize::from(ask.await.unwrap().1 == Role::Leader);
            }
            assert!(leaders >= 1);
        });
    });
}

/// A whole request for a stored rendition, from its parsed head to its answer.
mod hit {
    use super::*;

    struct Service {
        runtime: tokio::runtime::Runtime,
        _folder: tempfile::TempDir,
        app: Arc<App>,
        target: Uri,
        headers: HeaderMap,
    }

    fn service(existence: Existence) -> Service {
        service_with(existence, |_| HeaderMap::new())
    }

    /// A service with a config changed by `change`, which says too what the requests' headers are.
    fn service_with(existence: Existence, change: impl FnOnce(&mut Config) -> HeaderMap) -> Service {
        let folder = tempfile::tempdir().unwrap();
        let root = |name: &str| folder.path().join(name);
        let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/images/photo_land.jpg");
        std::fs::create_dir(root("media")).unwrap();
        std::fs::copy(photo, root("media").join("beach.jpg")).unwrap();
        let mut config = config(1);
        config.sources.insert("media".into(), SourceConfig::folder(root("media")));
        config.store.root = root("renditions");
        config.store.existence = existence;
        config.render.workers = 1;
        let headers = change(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let app = runtime.block_on(App::build(&config)).unwrap();
        let subject = Subject::Path { source: "media".into(), path: "beach.jpg".into() };
        let target: Uri = signed(&app.verifier, Scheme::Native, &subject, "width-60").parse().unwrap();
        let service = Service { runtime, _folder: folder, app, target, headers };
        assert_eq!([(); 3].map(|()| service.ask()), [Outcome::Rendered, Outcome::Hit, Outcome::Hit]);
        service
    }

    impl Service {
        fn ask(&self) -> Outcome {
            self.runtime.block_on(serve(&self.app, &Method::GET, &self.target, &self.headers, "id")).unwrap().1
        }
    }

    impl Drop for Service {
        fn drop(&mut self) {
            self.runtime.block_on(self.app.shut_down());
        }
    }

    #[divan::bench]
    fn check(bencher: Bencher<'_, '_>) {
        static SERVICE: LazyLock<Service> = LazyLock::new(|| service(Existence::Check));
        bencher.bench_local(|| SERVICE.ask());
    }

    #[divan::bench]
    fn assume(bencher: Bencher<'_, '_>) {
        static SERVICE: LazyLock<Service> = LazyLock::new(|| service(Existence::Assume));
        bencher.bench_local(|| SERVICE.ask());
    }
    #[divan::bench]
    fn check_with_a_token(bencher: Bencher<'_, '_>) {
        static SERVICE: LazyLock<Service> = LazyLock::new(|| {
            service_with(Existence::Check, |config| {
                config.auth.mode = AuthMode::Jwt;
                config.auth.jwt.keys = vec![TokenKeyConfig {
                    kid: "k".into(),
                    algorithm: TokenAlgorithm::HS256,
                    secret: Some(Secret::new("a secret that is long enough for HS256".into())),
                    secret_base64: None,
                    secret_file: None,
                    public_key_file: None,
                }];
                let minted = Minted {
                    subject: "anna",
                    images: None,
                    ttl: Duration::from_secs(600),
                    kid: None,
                    private_key_file: None,
                };
                let token = mint(&config.auth.jwt, &minted, SystemTime::now()).unwrap();
                HeaderMap::from_iter([(AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
            })
        });
        bencher.bench_local(|| SERVICE.ask());
    }
}
