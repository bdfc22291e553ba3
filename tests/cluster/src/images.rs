//! The images of a cluster, put together from what the machine has: each is kept until what it is made of changes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use crate::machine::{Running, text};
use crate::node::{CONTAINERD, PAUSE};
use crate::oci::{self, Image, Layer};
use crate::programs::{COREDNS_MODULE, cache, short_digest};
use crate::root_fs::RootFs;

/// The image that tests run: a shell, curl, Python and Node.js with the clouds' SDKs.
pub const CLIENT: &str = "podmeta.test/client:1";
/// CoreDNS.
pub const COREDNS: &str = "podmeta.test/coredns:1";
/// The operator and the node agent, from this checkout.
pub const PODMETA: &str = "podmeta.test/podmeta:dev";

/// An image that this program can put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Known {
    /// The sandbox of every pod.
    Pause,
    /// The cluster's DNS.
    Coredns,
    /// A shell, curl, Python and Node.js with the clouds' SDKs.
    Client,
    /// The operator and the node agent, as they were built last.
    Podmeta,
}

impl Known {
    /// The archive of the image, made if need be.
    ///
    /// # Errors
    /// If something that it is made of is missing.
    pub fn archive(self) -> Result<PathBuf> {
        let (image, files) = match self {
            Self::Pause => pause()?,
            Self::Coredns => coredns()?,
            Self::Client => client()?,
            Self::Podmeta => podmeta()?,
        };
        let folder = cache()?.join("images");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let key = short_digest(format!("{image:?}\n{}", files.fingerprint()).as_bytes());
        let short = image.name.trim_start_matches("podmeta.test/").replace(':', "-");
        let archive = folder.join(format!("{short}-{key}.tar"));
        if !archive.exists() {
            let (layer, new) = (archive.with_extension("layer"), archive.with_extension("new"));
            let mut writer = Layer::create(&layer)?;
            files.write(&mut writer)?;
            writer.finish(&image, &new)?;
            let earlier = fs::read_dir(&folder)?.flatten().map(|entry| entry.path());
            let earlier = earlier
                .filter(|path| path.file_name().is_some_and(|name| is_archive_of(&short, &name.to_string_lossy())));
            earlier.for_each(|path| drop(fs::remove_file(path)));
            fs::rename(&new, &archive)?;
        }
        Ok(archive)
    }
}

/// Whether a file of the cache is an archive of an image, of whatever it was made of.
fn is_archive_of(short: &str, file: &str) -> bool {
    let key = file.strip_prefix(short).and_then(|rest| rest.strip_prefix('-')?.strip_suffix(".tar"));
    key.is_some_and(|key| key.len() == 12 && key.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Imports an archive into a node's containerd, unless that image is there.
///
/// # Errors
/// If containerd does not take it.
pub fn load(archive: &Path, node: &Running) -> Result<()> {
    let (name, digest) = oci::identify(archive)?;
    if list(node)?.lines().any(|line| line.starts_with(&format!("{name} ")) && line.contains(&digest)) {
        return Ok(());
    }
    let mut import = ctr(node, &["import", "-"])?;
    let output = import.stdin(Stdio::from(File::open(archive)?)).output().context("cannot run ctr")?;
    text(&output).with_context(|| format!("{} cannot be imported", archive.display())).map(drop)
}

/// The images of a node, as containerd lists them.
///
/// # Errors
/// If containerd does not answer.
pub fn list(node: &Running) -> Result<String> {
    text(&ctr(node, &["list"])?.output().context("cannot run ctr")?)
}

fn ctr(node: &Running, arguments: &[&str]) -> Result<Command> {
    let mut command = node.command("ctr")?;
    command
        .args(["--address", CONTAINERD, "--namespace", "k8s.io", "--connect-timeout", "2s", "images"])
        .args(arguments);
    Ok(command)
}

fn image(name: &str, entrypoint: &[&str], environment: &[&str]) -> Image {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Image { name: name.to_owned(), entrypoint: owned(entrypoint), environment: owned(environment) }
}

fn pause() -> Result<(Image, RootFs)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/pause.c");
    let folder = cache()?.join("images");
    fs::create_dir_all(&folder)?;
    let program = folder.join("pause");
    let text = fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let built = folder.join(format!("pause-{}", short_digest(&text)));
    if !built.exists() {
        let status = Command::new("cc").args(["-Os", "-static", "-s", "-o"]).arg(&program).arg(&source).status();
        ensure!(status.context("cannot run cc")?.success(), "pause.c cannot be compiled");
        fs::rename(&program, &built)?;
    }
    let mut files = RootFs::default();
    files.file("/pause", &built);
    Ok((image(PAUSE, &["/pause"], &[]), files))
}

fn coredns() -> Result<(Image, RootFs)> {
    let mut files = RootFs::new();
    files.file("/coredns", &COREDNS_MODULE.build()?.join("coredns"));
    Ok((image(COREDNS, &["/coredns"], &[]), files))
}

fn client() -> Result<(Image, RootFs)> {
    let mut files = RootFs::new();
    let programs = [
        "bash", "cat", "chmod", "curl", "cut", "date", "echo", "env", "false", "getent", "grep", "head", "id", "ip",
        "ls", "mkdir", "node", "nsenter", "openssl", "printf", "ps", "readlink", "rm", "sed", "seq", "sh", "sleep",
        "sort", "tail", "test", "timeout", "touch", "tr", "true", "unshare", "wc", "nft",
    ];
    for program in programs {
        files.program(program)?;
    }
    let clients = clients()?;
    python(&mut files, &clients.join("python/venv/bin/python"))?;
    let packages =
        fs::read_dir(clients.join("python/venv/lib"))?.next().context("the clients' Python has no packages")??;
    let leave = ["__pycache__", "pip", "setuptools"];
    files.tree(Path::new("/opt/clients/python"), &packages.path().join("site-packages"), &leave)?;
    files.tree(Path::new("/opt/clients/node_modules"), &clients.join("node/node_modules"), &[".bin", "@types"])?;
    let environment = [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG=C.UTF-8",
        "PYTHONPATH=/opt/clients/python",
        "PYTHONDONTWRITEBYTECODE=1",
        "NODE_PATH=/opt/clients/node_modules",
    ];
    Ok((image(CLIENT, &["/bin/sh"], &environment), files))
}

/// Adds the Python that a program is, wherever it was installed, as `python3`.
fn python(files: &mut RootFs, python: &Path) -> Result<()> {
    let script = "import sys, sysconfig; print(sysconfig.get_path('stdlib'))";
    let output = Command::new(python)
        .args(["-c", script])
        .output()
        .with_context(|| format!("cannot run {}", python.display()))?;
    let library = PathBuf::from(text(&output)?.trim());
    // Neither tests nor what is there to build Python with, nor windows.
    let leave = [
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
    files.tree(&library, &library, &leave)?;
    let program = python.canonicalize()?;
    files.linked(&program)?;
    if program != Path::new("/usr/bin/python3") {
        files.link("/usr/bin/python3", &program);
    }
    Ok(())
}

/// Where `tests/real-clients/run` installed the clouds' SDKs, which it does if they are missing.
fn clients() -> Result<PathBuf> {
    let run = Path::new(env!("CARGO_MANIFEST_DIR")).join("../real-clients/run");
    let output =
        Command::new(&run).arg("--install").output().with_context(|| format!("cannot run {}", run.display()))?;
    let printed = text(&output).context("the clouds' SDKs cannot be installed")?;
    printed.lines().next_back().map(PathBuf::from).context("real-clients/run did not say where the clients are")
}

fn podmeta() -> Result<(Image, RootFs)> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let mut files = RootFs::new();
    for name in ["podmeta-operator", "podmeta-node-agent"] {
        let built = ["release", "debug"].map(|profile| target.join(profile).join(name));
        let age = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let newest = built.iter().filter(|path| path.exists()).max_by_key(|path| age(path));
        let program = newest.with_context(|| format!("{name} is not built: cargo build --package {name}"))?;
        files.libraries(program)?;
        files.file(&format!("/{name}"), program);
    }
    Ok((image(PODMETA, &["/podmeta-operator"], &[]), files))
}
