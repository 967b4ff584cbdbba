//! `sendimage serve`

use std::{pin::pin, sync::Arc, time::Duration};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use clap::Args;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::Instant,
};

use super::{CommandResult, ConfigArgument, Log, origin, runtime, service_manager, start_log_and_traces};
use crate::{
    app::App,
    config::Config,
    http::{
        answer, answer_ops,
        inherited::Inherited,
        page::{self, PageMemory, answer_page},
        server::{Bounds, Listener},
    },
    upkeep,
};

/// Connections of the operations listener: twice as many as it lets call at once.
const OPS_CONNECTIONS: usize = 256;
/// Connections of the editors' page: a browser has six.
const PAGE_CONNECTIONS: usize = 256;

/// At the least, renders at work when all requests are answered have this long.
const LAST_RENDERS: Duration = Duration::from_secs(1);

/// Runs the service until SIGTERM or SIGINT; requests in flight are answered first.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

pub fn run(arguments: &Arguments) -> CommandResult {
    let hidden = hide_memory();
    let loaded = arguments.config.load()?;
    // Before there is a second thread.
    let inherited = Inherited::take().context("cannot take over the sockets that LISTEN_FDS names")?;
    let log = start_log_and_traces(&loaded.config)?;
    if let Err(error) = hidden {
        tracing::warn!(%error, "a core file of this process, or another process of its user, might show its keys");
    }
    tracing::info!(config = origin(loaded.file.as_deref()), version = env!("CARGO_PKG_VERSION"), "starting");
    for (key, says) in loaded.config.cautions() {
        tracing::warn!(key, says, "allowed, with caution");
    }
    runtime()?.block_on(serve(&loaded.config, Some(&arguments.config), inherited, &log, |_, _| Ok(())))
}

/// Keys live in this process: no core file has them, and no process but root's reads its memory, whoever runs it.
fn hide_memory() -> rustix::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// Serves until a signal says to stop. `reload` is where SIGHUP finds the changed config, if there is a file at all;
/// `announce` is told the addresses of the public listener and of the page, once they are bound.
pub(super) async fn serve(
    config: &Config,
    reload: Option<&ConfigArgument>,
    mut inherited: Inherited,
    log: &Log,
    announce: impl FnOnce(&str, Option<&str>) -> CommandResult,
) -> CommandResult {
    // Handlers first: a signal during start must not end in the default action.
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
    // A write beyond a limit on file lengths (RLIMIT_FSIZE) is an error to answer, not the end of the service.
    let _too_long = signal(SignalKind::from_raw(libc::SIGXFSZ)).context("cannot handle SIGXFSZ")?;

    let app = App::build(config).await?;
    upkeep::attend(&app);
    app.metrics.count_dropped_lines(log.dropped.clone());
    let listener = Listener::bind(&config.server.listen, config.server.listen_mode, &mut inherited).await?;
    let ops = Listener::bind(&config.server.ops_listen, config.server.listen_mode, &mut inherited).await?;
    let page = match &config.page.listen {
        Some(address) => Some(Listener::bind(address, config.server.listen_mode, &mut inherited).await?),
        None => None,
    };
    for address in inherited.unused() {
        let says = "an inherited socket is none of server.listen, server.ops_listen and page.listen, and is not used";
        tracing::warn!(address, "{says}");
    }
    // Modes are the config's: were the umask to take bits, a service killed between making a folder and giving it its mode
    // would leave one that nginx cannot enter. Sockets, which are connected to at once, have theirs by now.
    rustix::process::umask(rustix::fs::Mode::empty());
    let sandbox = app.sandbox();
    let page_address = page.as_ref().map(Listener::address);
    announce(&listener.address(), page_address.as_deref())?;
    tracing::info!(listen = listener.address(), ops = ops.address(), page = page_address, %sandbox, "ready");
    tokio::spawn(sweep(app.clone()));
    app.budget.start(config);

    let (stop, stopping) = watch::channel(false);
    let drain = Duration::from_secs_f64(config.server.drain_seconds);
    let bounds = Bounds {
        header_timeout: Duration::from_secs_f64(config.server.header_timeout_seconds),
        max_connections: config.server.max_connections,
        drain,
    };
    // What a request finds when it arrives, it keeps to its end.
    let current = Arc::new(ArcSwap::new(app));
    let images = {
        let current = current.clone();
        tokio::spawn(listener.serve(bounds, stopping, move |request| answer(current.load_full(), request)))
    };
    let (stop_ops, stopping_ops) = watch::channel(false);
    let ops = {
        let current = current.clone();
        let bounds = Bounds { max_connections: OPS_CONNECTIONS, drain: Duration::from_secs(1), ..bounds };
        tokio::spawn(ops.serve(bounds, stopping_ops, move |request| answer_ops(current.load_full(), request)))
    };

    if let Some(page) = page {
        let (current, memory) = (current.clone(), Arc::new(PageMemory::default()));
        tokio::spawn(sample(current.clone(), memory.clone()));
        let bounds = Bounds { max_connections: PAGE_CONNECTIONS, drain: Duration::from_secs(1), ..bounds };
        let answer = move |request| answer_page(current.load_full(), memory.clone(), request);
        tokio::spawn(page.serve(bounds, stop.subscribe(), answer));
    }

    service_manager::ready();
    let watchdog = tokio::spawn(service_manager::keep_watchdog_quiet());
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                service_manager::reloading();
                apply_changes(&current, reload);
                service_manager::ready();
            }
        }
    }
    tracing::info!(drain_seconds = config.server.drain_seconds, "stopping: requests in flight are answered first");
    service_manager::stopping();
    current.load().begin_drain();
    stop.send_replace(true);
    let drained = Instant::now() + drain;
    // Asked twice: at once.
    let mut again = pin!(async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("stopping at once");
    });
    let is_asked_again = tokio::select! {
        _ = images => false,
        () = &mut again => true,
    };
    // Health answers to the end, so that a balancer sees the draining.
    stop_ops.send_replace(true);
    let _ = ops.await;
    // Renders that nobody waits for any more: for what is left of the drain time.
    let enough = async {
        if !is_asked_again {
            tokio::select! {
                () = tokio::time::sleep_until(drained.max(Instant::now() + LAST_RENDERS)) => {}
                () = again => {}
            }
        }
    };
    current.load().shut_down_until(enough).await;
    watchdog.abort();
    tracing::info!("stopped");
    Ok(())
}

/// Keeps the last minutes of the metrics for the page's status view.
async fn sample(current: Arc<ArcSwap<App>>, memory: Arc<PageMemory>) {
    let mut ticks = tokio::time::interval(page::INTERVAL);
    loop {
        ticks.tick().await;
        memory.sample(&current.load());
    }
}

/// SIGHUP: a good file is applied whole; a bad one changes nothing and says why.
fn apply_changes(current: &ArcSwap<App>, reload: Option<&ConfigArgument>) {
    let Some(argument) = reload else { return };
    let changed = argument.load().map_err(|error| error.to_string()).and_then(|loaded| {
        let app = current.load().rebuild(&loaded.config).map_err(|error| error.to_string())?;
        Ok((app, loaded.file))
    });
    match changed {
        Ok((app, file)) => {
            upkeep::attend(&app);
            app.budget.start(app.config());
            current.store(app);
            tracing::info!(config = origin(file.as_deref()), "the changed config is applied");
        }
        Err(error) => {
            current.load().metrics.config_reload_failed.inc();
            tracing::error!(error, "the changed config is not usable; the old one stays");
        }
    }
}

async fn sweep(app: Arc<App>) {
    match app.store.sweep(false).await {
        Ok(0) => {}
        Ok(files) => tracing::info!(files, "removed what crashed processes had left in the store"),
        Err(error) => tracing::warn!(%error, "the store could not be swept"),
    }
}
