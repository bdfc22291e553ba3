//! The content of each image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::oci::ImageConfig;
use super::root_fs::{RootFs, libraries};
use super::{CLIENT, COREDNS, MOTO_DIR, PAUSE, PODMETA, archive_dir};
use crate::machine::command_output;
use crate::programs::{COREDNS_MODULE, short_digest};

/// The static program of `images/pause.c`.
pub(super) fn pause() -> Result<(ImageConfig, RootFs)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/pause.c");
    let dir = archive_dir()?;
    let program = dir.join("pause");
    let text = fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let built = dir.join(format!("pause-{}", short_digest(&text)));
    if !built.exists() {
        let status = Command::new("cc").args(["-Os", "-static", "-s", "-o"]).arg(&program).arg(&source).status();
        ensure!(status.context("cannot run cc")?.success(), "cannot compile {}", source.display());
        fs::rename(&program, &built)?;
    }
    let mut files = RootFs::default();
    files.add_file("/pause", &built);
    Ok((config(PAUSE, &["/pause"], &[]), files))
}

/// CoreDNS, built from its Go module.
pub(super) fn coredns() -> Result<(ImageConfig, RootFs)> {
    let mut files = RootFs::with_base_files();
    files.add_file("/coredns", &COREDNS_MODULE.build()?.join("coredns"));
    Ok((config(COREDNS, &["/coredns"], &[]), files))
}

/// Programs of this host, the SDKs and cloud-init that `tests/real-clients/run` installs, and moto of `tests/moto/run`.
pub(super) fn client() -> Result<(ImageConfig, RootFs)> {
    let mut files = RootFs::with_base_files();
    let programs = [
        "bash", "cat", "chmod", "curl", "cut", "date", "echo", "env", "false", "getent", "grep", "head", "id", "ip",
        "ls", "mkdir", "node", "nsenter", "openssl", "printf", "ps", "readlink", "rm", "sed", "seq", "sh", "sleep",
        "sort", "tail", "test", "timeout", "touch", "tr", "true", "unshare", "wc", "nft",
    ];
    for program in programs {
        files.add_program(program)?;
    }
    // The AWS Common Runtime needs a trust store, also for requests without TLS.
    files.add_file("/etc/ssl/certs/ca-certificates.crt", Path::new("/etc/ssl/certs/ca-certificates.crt"));
    let clients = install_sdk_clients()?;
    add_python(&mut files, &clients.join("python/venv/bin/python"))?;
    let packages =
        fs::read_dir(clients.join("python/venv/lib"))?.next().context("the SDK clients' Python has no packages")??;
    let excluded = ["__pycache__", "pip", "setuptools"];
    files.add_tree(Path::new("/opt/clients/python"), &packages.path().join("site-packages"), &excluded)?;
    let packages = clients.join("cloud_init/usr/lib/python3/dist-packages");
    files.add_tree(Path::new("/opt/clients/cloud_init"), &packages, &["__pycache__"])?;
    // moto needs the excluded packages only for services that no test uses. They are larger than moto.
    let excluded = ["__pycache__", "pip", "setuptools", "cfnlint", "mpmath", "networkx", "sympy"];
    files.add_tree(Path::new(MOTO_DIR), &install_moto()?, &excluded)?;
    files.add_tree(Path::new("/opt/clients/node_modules"), &clients.join("node/node_modules"), &[".bin", "@types"])?;
    let environment = [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG=C.UTF-8",
        "PYTHONPATH=/opt/clients/python:/opt/clients/cloud_init",
        "PYTHONDONTWRITEBYTECODE=1",
        "NODE_PATH=/opt/clients/node_modules",
    ];
    Ok((config(CLIENT, &["/bin/sh"], &environment), files))
}

/// podmeta's programs: for each, the newer of the release and the debug build.
pub(super) fn podmeta() -> Result<(ImageConfig, RootFs)> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let mut files = RootFs::with_base_files();
    // The operator verifies the clouds' endpoints. The base image of the Dockerfile has the file too.
    files.add_file("/etc/ssl/certs/ca-certificates.crt", Path::new("/etc/ssl/certs/ca-certificates.crt"));
    for name in ["podmeta-operator", "podmeta-node-agent", "podmeta-link", "podmeta-cni"] {
        let built = ["release", "debug"].map(|profile| target.join(profile).join(name));
        let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let newest = built.iter().filter(|path| path.exists()).max_by_key(|path| modified(path));
        let program = newest.with_context(|| format!("{name} is not built: make programs"))?;
        files.add_libraries(program)?;
        if name == "podmeta-cni" {
            // It runs on the node, without the libraries of the image.
            ensure!(libraries(program)?.is_empty(), "{} is not static: make programs", program.display());
        }
        files.add_file(&format!("/{name}"), program);
    }
    Ok((config(PODMETA, &["/podmeta-operator"], &[]), files))
}

fn config(name: &str, entrypoint: &[&str], environment: &[&str]) -> ImageConfig {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    ImageConfig { name: name.to_owned(), entrypoint: owned(entrypoint), environment: owned(environment) }
}

/// Adds a Python interpreter and its standard library at their paths on this host, and links `/usr/bin/python3` to it.
fn add_python(files: &mut RootFs, python: &Path) -> Result<()> {
    let script = "import sys, sysconfig; print(sysconfig.get_path('stdlib'))";
    let output = Command::new(python)
        .args(["-c", script])
        .output()
        .with_context(|| format!("cannot run {}", python.display()))?;
    let library = PathBuf::from(command_output(&output)?.trim());
    let excluded = [
        "__pycache__",
        "config-*",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "site-packages",
        "test",
        "tkinter",
        "_tkinter*",
        "turtledemo",
    ];
    files.add_tree(&library, &library, &excluded)?;
    let program = python.canonicalize()?;
    files.add_with_libraries(&program)?;
    if program != Path::new("/usr/bin/python3") {
        files.add_link("/usr/bin/python3", &program);
    }
    Ok(())
}

/// Installs the clouds' SDKs and cloud-init with `tests/real-clients/run`, and returns their directory.
fn install_sdk_clients() -> Result<PathBuf> {
    install("real-clients/run").context("cannot install the clouds' SDKs")
}

/// Installs moto with `tests/moto/run`, and returns the directory of its Python packages.
fn install_moto() -> Result<PathBuf> {
    install("moto/run").context("cannot install moto")
}

/// Runs a script of `tests/` with `--install`, and returns the directory that it prints last.
fn install(script: &str) -> Result<PathBuf> {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(script);
    let output =
        Command::new(&run).arg("--install").output().with_context(|| format!("cannot run {}", run.display()))?;
    let printed = command_output(&output)?;
    printed.lines().next_back().map(PathBuf::from).with_context(|| format!("{script} printed no directory"))
}
