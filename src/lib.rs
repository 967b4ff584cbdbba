//! sendimage is to images what X-Sendfile is to files.
//!
//! A signed URL comes in; the service proves that it may be served, makes sure the rendition exists in a folder shared with
//! nginx, and answers with an empty body and `X-Accel-Redirect`, so that nginx streams the file itself. Apache, lighttpd and
//! Caddy have ways of their own.
//!
//! # The life of a request
//!
//! 1. [`http::server`] accepts a connection and reads a request's head within its limits.
//! 2. [`access`] takes the raw target apart, decodes it once, and checks signature and expiry, then the token, or asks the
//!    site, where the route wants that. A [`access::VerifiedRequest`] comes of it, and only there. Nothing has been looked up
//!    or opened so far.
//! 3. [`catalogue`] turns an image id into a [`model::SourceImage`].
//! 4. [`spec`] parses the filter spec; [`render::plan`] solves it as numbers, with what a worker's probe found in the
//!    source's header.
//! 5. [`model::RenditionKey`] names the rendition after everything that decides its bytes.
//! 6. [`renditions`] asks the [`store`]; a hit ends here (and the next one like it finds steps 3 to 5 and its answer in
//!    [`solved`]). A miss joins the single flight for its key: a render [`workers`]
//!    process decodes, resamples and encodes, and the store publishes the file.
//! 7. [`offload`] writes the answer. `X-Accel-Redirect` and `X-Sendfile` are set in one function each, out of reach for every
//!    failure.
//!
//! # The rooms
//!
//! Doors open one way: a room uses only those above it and, of its siblings, none.
//!
//! | room | what it is |
//! |---|---|
//! | [`model`] | the vocabulary: images, versions, sizes, paths, keys |
//! | [`spec`] | the filter spec grammar |
//! | [`config`] | what the operator decides |
//! | [`metrics`] | every metric on one page |
//! | [`remote`] | bounded requests over the network |
//! | [`access`] | may this URL be served, and to whom? |
//! | [`catalogue`], [`source`], [`store`], [`offload`] | backends that do not know each other |
//! | [`coordination`] | which of several gates renders, and what they tell each other |
//! | [`render`] | bytes and a plan to bytes; runs in a worker |
//! | [`traces`] | spans of requests, where a collector wants them |
//! | [`workers`] | the render workers: child processes, locked in |
//! | [`budget`] | what the store holds, when it was last used, and what has to go |
//! | [`renditions`] | make sure a rendition exists |
//! | [`solved`] | hits answered before, and their answers |
//! | [`app`] | the composition root |
//! | [`upkeep`] | what is done to images outside of requests: purge, warm |
//! | [`doctor`] | what `check --url` asks a running whole, through the web server in front |
//! | [`http`] | connections, requests, statuses; in [`http::page`] the editors' page |
//! | [`front`] | the web server in front of us: the config for nginx, Apache, lighttpd or Caddy that fits ours |
//! | [`command`] | one file for each command |

#[forbid(unsafe_code)]
pub mod access;
#[forbid(unsafe_code)]
pub mod app;
mod at_once;
#[forbid(unsafe_code)]
pub mod budget;
#[forbid(unsafe_code)]
pub mod catalogue;
#[forbid(unsafe_code)]
pub mod command;
#[forbid(unsafe_code)]
pub mod config;
#[forbid(unsafe_code)]
pub mod coordination;
#[forbid(unsafe_code)]
pub mod doctor;
#[forbid(unsafe_code)]
pub mod front;
#[forbid(unsafe_code)]
pub mod http;
#[forbid(unsafe_code)]
pub mod metrics;
#[forbid(unsafe_code)]
pub mod model;
#[forbid(unsafe_code)]
pub mod offload;
#[forbid(unsafe_code)]
mod random;
#[forbid(unsafe_code)]
pub mod remote;
pub mod render;
#[forbid(unsafe_code)]
pub mod renditions;
#[forbid(unsafe_code)]
pub mod sample;
#[forbid(unsafe_code)]
pub mod solved;
#[forbid(unsafe_code)]
pub mod source;
#[forbid(unsafe_code)]
pub mod spec;
#[forbid(unsafe_code)]
pub mod store;
#[forbid(unsafe_code)]
pub mod traces;
#[forbid(unsafe_code)]
mod unnamed;
#[forbid(unsafe_code)]
pub mod upkeep;
pub mod workers;
