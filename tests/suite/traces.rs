//! Traces, as a collector receives them (builds with the feature `otel`).

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind},
};
use prost::Message as _;
use rustix::process::Signal;

use crate::harness::{Site, free_port};

/// Takes OTLP over HTTP and reads it with the protocol's own types.
struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, received) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let shared = received.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let received = shared.clone();
                std::thread::spawn(move || Self::answer(stream, &received));
            }
        });
        Self { address, received }
    }

    fn answer(stream: TcpStream, received: &Mutex<Vec<ExportTraceServiceRequest>>) {
        let mut writer = stream.try_clone().unwrap();
        let mut reader = BufReader::new(stream);
        loop {
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                match reader.read_line(&mut line) {
                    Ok(0) | Err(_) => return,
                    Ok(_) if line == "\r\n" => break,
                    Ok(_) => head.push(line.to_ascii_lowercase()),
                }
            }
            assert!(head[0].starts_with("post /v1/traces "), "{head:?}");
            assert!(head.iter().any(|line| line.starts_with("content-type: application/x-protobuf")), "{head:?}");
            let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap().trim();
            let mut body = vec![0; length.parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            received.lock().unwrap().push(ExportTraceServiceRequest::decode(body.as_slice()).unwrap());
            let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
            writer.write_all(answer.as_bytes()).unwrap();
        }
    }

    fn spans(&self) -> Vec<Span> {
        let received = self.received.lock().unwrap();
        let scopes = received.iter().flat_map(|request| &request.resource_spans).flat_map(|of| &of.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    fn services(&self) -> Vec<String> {
        let received = self.received.lock().unwrap();
        let resources = received.iter().flat_map(|request| &request.resource_spans).flat_map(|of| &of.resource);
        let attributes = resources.flat_map(|resource| &resource.attributes);
        attributes.filter(|pair| pair.key == "service.name").map(|pair| format!("{:?}", pair.value)).collect()
    }
}

fn attribute(span: &Span, name: &str) -> Option<Value> {
    span.attributes.iter().find(|pair| pair.key == name)?.value.clone()?.value
}

fn traced(endpoint: SocketAddr) -> Site {
    let config =
        format!("[log]\nformat = \"json\"\nlevel = \"debug\"\n[tracing]\nendpoint = \"http://{endpoint}/v1/traces\"\n");
    let site = Site::new(&config).serve();
    site.add("photo_land.jpg", "a.jpg");
    site
}

#[test]
fn a_request_is_a_part_of_the_trace_that_the_web_server_began() {
    let collector = Collector::start();
    let mut site = traced(collector.address);
    let url = site.sign(&["media/a.jpg", "width-50"]);
    let parent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    assert_eq!(site.gate("GET", &url, &format!("{parent}X-Request-Id: the-first\r\n")).status, 200);
    // Two hits, of no trace: one of their own each. Then one that the web server does not record, and one that is refused.
    assert_eq!(site.gate("GET", &url, "").status, 200);
    assert_eq!(site.gate("GET", &url, "").status, 200);
    let unrecorded = "traceparent: 00-11111111111111111111111111111111-2222222222222222-00\r\n";
    assert_eq!(site.gate("GET", &url, unrecorded).status, 200);
    assert_eq!(site.gate("GET", "/images/wrong/media/width-50/a.jpg", parent).status, 403);
    site.signal(Signal::TERM);
    assert!(site.wait().success());

    let spans = collector.spans();
    let trace = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
    let of_first: Vec<&Span> = spans.iter().filter(|span| span.trace_id == trace).collect();
    let requests: Vec<&&Span> = of_first.iter().filter(|span| span.name == "request").collect();
    assert_eq!(requests.len(), 2, "{spans:#?}");
    let first =
        requests.iter().find(|span| attribute(span, "request.id") == Some(Value::StringValue("the-first".into())));
    let first = first.unwrap();
    assert_eq!(first.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!(first.kind, SpanKind::Server as i32);
    assert_eq!(attribute(first, "http.response.status_code"), Some(Value::IntValue(200)));
    assert_eq!(attribute(first, "http.request.method"), Some(Value::StringValue("GET".into())));
    let named =
        |name: &str| *of_first.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name}: {spans:#?}"));
    for part in ["find", "render", "store"] {
        assert_eq!(named(part).parent_span_id, first.span_id, "{part}");
        assert!(named(part).start_time_unix_nano >= first.start_time_unix_nano);
        assert!(named(part).end_time_unix_nano <= first.end_time_unix_nano);
    }
    for stage in ["decode", "resample", "encode"] {
        assert_eq!(named(stage).parent_span_id, named("render").span_id, "{stage}");
    }
    let refused = requests.iter().find(|span| span.span_id != first.span_id).unwrap();
    assert_eq!(attribute(refused, "http.response.status_code"), Some(Value::IntValue(403)));
    assert!(!spans.iter().any(|span| span.trace_id == [0x11; 16]), "it was not to be recorded");
    let of_hits: Vec<&Span> = spans.iter().filter(|span| span.trace_id != trace).collect();
    let hits: Vec<&&Span> = of_hits.iter().filter(|span| span.name == "request").collect();
    assert!(hits.len() == 2 && hits.iter().all(|span| span.parent_span_id.is_empty()), "{of_hits:#?}");
    // The first had to look for what was stored, the second was answered as the first.
    assert_eq!(of_hits.iter().filter(|span| span.name == "find").count(), 1, "{of_hits:#?}");
    assert_eq!(of_hits.len(), 3, "{of_hits:#?}");
    assert!(collector.services().iter().all(|name| name.contains("\"sendimage\"")), "{:?}", collector.services());
    // What was proven by is nobody's business, and the log is as it would be without.
    let signature = url.split('/').nth(2).unwrap();
    assert!(!format!("{spans:?}").contains(signature));
    assert!(!site.log().contains("\"span\"") && !site.log().contains("\"spans\""), "{}", site.log());
}

#[test]
fn a_collector_that_is_away_costs_nobody_anything() {
    let mut site = traced(([127, 0, 0, 1], free_port()).into());
    let url = site.sign(&["media/a.jpg", "width-50"]);
    for _ in 0..100 {
        assert_eq!(site.gate("GET", &url, "").status, 200);
    }
    let began = Instant::now();
    site.signal(Signal::TERM);
    assert!(site.wait().success());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_share_that_is_none_is_a_bad_config() {
    let site = Site::new("[tracing]\nendpoint = \"http://127.0.0.1:1/v1/traces\"\nsample_percent = 101.0\n");
    let output = site.run(&["serve"]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("sample_percent"), "{output:?}");
}
