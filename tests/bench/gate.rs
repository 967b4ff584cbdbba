//! What a request costs the gate, step by step and as a whole, without sockets.
//!
//! `cargo bench --bench gate` measures; `cargo bench --bench gate -- --test` runs each once.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    hint::black_box,
    path::Path,
    process::ExitCode,
    sync::{Arc, LazyLock},
    time::SystemTime,
};

use divan::Bencher;
use hyper::{HeaderMap, Method, Uri};
use sendimage::{
    access::{Link, Scheme, Subject, Verifier},
    app::{self, App},
    config::{Config, Existence, Secret, SigningKeyConfig, SourceConfig, SourceKind},
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
            secret_base64: None,
            secret_file: None,
        })
        .collect();
    config.signing.wagtail_keys = vec![Secret::new("a site's SECRET_KEY, fifty characters long or so".into())];
    config
}

fn signed(verifier: &Verifier, scheme: Scheme, subject: &Subject<'_>, spec: &str) -> String {
    verifier.sign(&verifier.table().routes()[0], scheme, &Link::new(subject, spec)).unwrap()
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
            Ok((route, url)) => verifier.verify(route, &url, now).is_ok(),
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
    }

    fn service(existence: Existence) -> Service {
        let folder = tempfile::tempdir().unwrap();
        let root = |name: &str| folder.path().join(name);
        let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/images/photo_land.jpg");
        std::fs::create_dir(root("media")).unwrap();
        std::fs::copy(photo, root("media").join("beach.jpg")).unwrap();
        let mut config = config(1);
        config.sources.insert("media".into(), SourceConfig { kind: SourceKind::Fs, root: root("media"), svg: false });
        config.store.root = root("renditions");
        config.store.existence = existence;
        config.render.workers = 1;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let app = runtime.block_on(App::build(&config)).unwrap();
        let subject = Subject::Path { source: "media".into(), path: "beach.jpg".into() };
        let target: Uri = signed(&app.verifier, Scheme::Native, &subject, "width-60").parse().unwrap();
        let service = Service { runtime, _folder: folder, app, target };
        assert_eq!([(); 3].map(|()| service.ask()), [Outcome::Rendered, Outcome::Hit, Outcome::Hit]);
        service
    }

    impl Service {
        fn ask(&self) -> Outcome {
            self.runtime.block_on(serve(&self.app, &Method::GET, &self.target, &HeaderMap::new())).unwrap().1
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
}
