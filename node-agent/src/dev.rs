//! The dev server: pods of YAML files, on loopback ports or as a command sees them, with the answers of a cluster.

pub mod address;
mod args;
pub mod files;
mod host;
mod listen;
#[cfg(target_os = "linux")]
pub mod namespace;
mod print;
mod run;
pub mod state;
pub mod world;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use podmeta_crds::manifests::ManifestError;
use podmeta_service::admin::Admin;
use podmeta_service::limits;
use podmeta_service::signals::Signals;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use args::{Args, Listen, Output};

use crate::broker::{self, Broker};
use crate::dev::files::{Files, Text};
use crate::dev::listen::{Listeners, Wanted};
use crate::dev::print::{Endpoint, Report};
use crate::dev::state::State;
use crate::dev::world::World;
use crate::edge::{Edge, PodView, Server};
use crate::keys;

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long connections may take to end when the server stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs `dev`.
///
/// # Errors
/// If the server cannot run; what is wrong in the files is printed, and is an exit code.
pub fn main(args: Args) -> Result<ExitCode> {
    let files = Files::new(args.files.clone())?;
    let texts = files.read()?;
    let world = match World::read(&texts, Timestamp::now(), &args.cluster.settings()) {
        Ok(world) => world,
        Err(problems) => {
            print_problems(&problems);
            return Ok(ExitCode::FAILURE);
        }
    };
    for note in &world.notes {
        eprintln!("note: {note}");
    }
    if args.check {
        println!("checked: {}, {}", print::count(world.pods.len(), "pod"), print::count(world.warnings, "warning"));
        return Ok(if world.warnings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    log(&args);
    limits::raise_open_files();
    let state = State::open(args.state_dir.clone())?;
    let keys = state.session_keys().load(Timestamp::now())?;
    let secrets = broker::Files::new(state.signer()?);
    let edge = Edge::new(keys, Broker::Files(Arc::clone(&secrets)), Arc::new(Timestamp::now));
    publish(&edge, &secrets, &world);
    // One worker answers faster than two that take connections from each other (docs/benchmarks.md); files are read, pods
    // compiled and documents signed on other threads.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    match args.pod.clone() {
        None => runtime.block_on(serve(&args, files, (texts, world), &state, (edge, &secrets))),
        Some(pod) => runtime.block_on(run::command(&args::qualified(&pod), &args.command, &world, &state, edge)),
    }
}

fn print_problems(problems: &[ManifestError]) {
    for problem in problems {
        eprintln!("error: {problem}");
    }
}

fn log(args: &Args) {
    let level = args.log.unwrap_or(if args.pod.is_some() { tracing::Level::WARN } else { tracing::Level::DEBUG });
    let terminal = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    terminal.compact().init();
}

fn publish(edge: &Edge, secrets: &broker::Files, world: &World) {
    secrets.set_secrets(world.secrets.clone());
    edge.publish(world.pods.values().map(|pod| (pod.uid.clone(), pod.view.clone())));
}

/// Serves loopback ports until it is interrupted.
async fn serve(
    args: &Args,
    files: Files,
    (mut texts, mut world): (Vec<Text>, World),
    state: &State,
    (edge, secrets): (Arc<Edge>, &broker::Files),
) -> Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let stop = CancellationToken::new();
    let mut listeners = Listeners::new(Server::new(Arc::clone(&edge), stop.clone()), stop.clone(), args.listen.clone());
    let wanted_at_first = wanted(&world);
    for listen in &args.listen {
        if !wanted_at_first.contains_key(&(listen.pod.clone(), listen.dialect)) {
            let there = wanted_at_first.keys().map(|(pod, dialect)| format!("{pod}/{dialect}")).collect::<Vec<_>>();
            anyhow::bail!(
                "--listen: no {}/{} in the files; there are: {}",
                listen.pod,
                listen.dialect,
                there.join(", ")
            );
        }
    }
    listeners.set(wanted_at_first).await?;
    let (admin, admin_address) = admin(args, &edge, &stop).await?;
    let certificate = state.certificate();
    let report = |world: &World, listeners: &Listeners| {
        let report = Report { endpoints: endpoints(world, listeners), admin: admin_address, certificate: &certificate };
        match args.output {
            Output::Table => report.table(),
            Output::Json => report.json(),
        }
    };
    println!("{}", report(&world, &listeners));
    admin.set_ready();
    let keeping = tokio::spawn(keys::keep(state.session_keys(), Arc::clone(&edge)));
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = signals.next() => break,
            _ = look.tick() => {}
        }
        let read = files.read();
        if read.as_ref().is_ok_and(|read| *read == texts) {
            continue;
        }
        match reload(read, &mut texts, args) {
            Reload::Same => {}
            Reload::Refused => eprintln!("still serving what was read before"),
            Reload::New(new) => {
                let changes = changes(&world, &new);
                publish(&edge, secrets, &new);
                world = new;
                listeners.set(wanted(&world)).await?;
                for change in &changes {
                    eprintln!("reloaded: {change}");
                }
                if changes.is_empty() {
                    eprintln!("reloaded: no pod changed");
                } else {
                    println!("{}", report(&world, &listeners));
                }
            }
        }
    }
    keeping.abort();
    stop.cancel();
    let drained = tokio::time::timeout(DRAIN, listeners.drained()).await;
    if drained.is_err() {
        eprintln!("warning: some connections did not end in {} s and were cut", DRAIN.as_secs());
    }
    Ok(ExitCode::SUCCESS)
}

enum Reload {
    Same,
    Refused,
    New(World),
}

/// Reads changed files into a new world. What is wrong is printed once: until the next change.
fn reload(read: Result<Vec<Text>>, texts: &mut Vec<Text>, args: &Args) -> Reload {
    let new = match read {
        Ok(new) => new,
        Err(error) => {
            // Remembered as no text at all, so that it is said once.
            if std::mem::take(texts).is_empty() {
                return Reload::Same;
            }
            eprintln!("error: {error:#}");
            return Reload::Refused;
        }
    };
    *texts = new;
    match World::read(texts, Timestamp::now(), &args.cluster.settings()) {
        Ok(world) => {
            for note in &world.notes {
                eprintln!("note: {note}");
            }
            Reload::New(world)
        }
        Err(problems) => {
            print_problems(&problems);
            Reload::Refused
        }
    }
}

/// What a reload did to the pods, a line each.
fn changes(old: &World, new: &World) -> Vec<String> {
    let names = old.pods.keys().chain(new.pods.keys()).collect::<std::collections::BTreeSet<_>>();
    let change = |name: &String| match (old.pods.get(name), new.pods.get(name)) {
        (None, _) => Some(format!("{name} is new")),
        (_, None) => Some(format!("{name} is gone")),
        (Some(before), Some(after)) if before != after => Some(format!("{name} changed")),
        (Some(_), Some(_)) => None,
    };
    let secrets = (old.secrets != new.secrets).then(|| "Secrets changed".to_owned());
    names.into_iter().filter_map(change).chain(secrets).collect()
}

async fn admin(args: &Args, edge: &Edge, stop: &CancellationToken) -> Result<(Arc<Admin>, std::net::SocketAddr)> {
    let mut registry = Registry::default();
    edge.metrics().register(&mut registry);
    let admin = Admin::new(registry);
    let listener = TcpListener::bind(args.admin_listen).await;
    let listener = listener.with_context(|| format!("cannot listen on {} (--admin-listen)", args.admin_listen))?;
    let address = listener.local_addr()?;
    tokio::spawn(Arc::clone(&admin).serve(listener, stop.clone()));
    Ok((admin, address))
}

fn wanted(world: &World) -> Wanted {
    let places = world
        .pods
        .iter()
        .flat_map(|(name, pod)| pod.dialects().map(|dialect| ((name.clone(), dialect), pod.uid.clone())));
    places.collect()
}

fn endpoints(world: &World, listeners: &Listeners) -> Vec<Endpoint> {
    let all = world.pods.iter().flat_map(|(name, pod)| pod.dialects().map(move |dialect| (name, pod, dialect)));
    let endpoint = |(name, pod, dialect): (&String, &world::DevPod, _)| {
        let url = format!("http://{}", listeners.address(name, dialect)?);
        let (workload, denied) = match &pod.view {
            PodView::Served(workload, _) => (Some(workload), None),
            PodView::Denied(denied) => (None, Some(denied.reason.to_string())),
        };
        Some(Endpoint {
            pod: name.clone(),
            dialect,
            url,
            profile: workload.and_then(|workload| workload.profile.as_ref()).map(|profile| profile.name.clone()),
            http_tokens: workload.map(|workload| workload.options.http_tokens),
            role: workload.and_then(|workload| workload.part(dialect)?.role.as_ref()).map(|role| role.name.to_string()),
            denied,
        })
    };
    all.filter_map(endpoint).collect()
}
