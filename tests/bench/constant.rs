//! An upstream of hyper and tokio that does nothing but name the file, set up as the gate's listener is: what any service
//! built on them costs in the gate's place, beside the nginx that the floor has there. `tests/bench/hit.py` starts it:
//! `constant SOCKET`.

use std::{convert::Infallible, env, error::Error, future::ready, time::Duration};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, Response, body::Incoming, header::HeaderValue, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::UnixListener, runtime::Builder};

// As the gate's.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_HEAD_BYTES: usize = 32 << 10;
const MAX_HEADERS: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let socket = env::args_os().nth(1).ok_or("constant SOCKET")?;
    Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = UnixListener::bind(socket)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_buf_size(MAX_HEAD_BYTES)
                .max_headers(MAX_HEADERS)
                .writev(false)
                .serve_connection(TokioIo::new(stream), service_fn(|request| ready(answer(&request))));
            tokio::spawn(connection);
        }
    })
}

/// `/images/NAME` is the file NAME.
fn answer(request: &Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let name = request.uri().path().trim_start_matches("/images/");
    let mut response = Response::new(Empty::new());
    if let Ok(path) = HeaderValue::try_from(format!("/_renditions/{name}")) {
        response.headers_mut().insert("x-accel-redirect", path);
        response.headers_mut().insert("content-type", HeaderValue::from_static("image/jpeg"));
    }
    Ok(response)
}
