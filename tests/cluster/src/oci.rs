//! Writes an OCI image archive with one layer, from files: no registry, no container engine, the same bytes each time.

use std::fs::{self, File};
use std::io::{BufWriter, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aws_lc_rs::digest::{Context as Digest, SHA256, digest};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

/// The annotation by which containerd calls an image.
const NAME: &str = "io.containerd.image.name";

/// What an image is, beside its files.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its whole name, such as `podmeta.test/pause:1`.
    pub name: String,
    /// What it runs.
    pub entrypoint: Vec<String>,
    /// The variables that it runs with.
    pub environment: Vec<String>,
}

/// Files of an image that is being put together.
pub struct Layer {
    tar: Builder<BufWriter<File>>,
    path: PathBuf,
}

impl Layer {
    /// An empty layer, written to a file.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { tar: Builder::new(BufWriter::new(file)), path: path.to_owned() })
    }

    /// Adds a folder; everybody may write into `/tmp`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn folder(&mut self, path: &Path) -> Result<()> {
        let mode = if path == Path::new("/tmp") { 0o1777 } else { 0o755 };
        let mut header = header(EntryType::Directory, mode, 0);
        self.tar.append_data(&mut header, relative(path), std::io::empty()).context("cannot write a layer")
    }

    /// Adds a file of the host, or what a link of the host leads to.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn file(&mut self, path: &Path, source: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let mut copy = || -> Result<()> {
            let metadata = fs::metadata(source)?;
            let mode = if metadata.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
            let mut header = header(EntryType::Regular, mode, metadata.len());
            Ok(self.tar.append_data(&mut header, relative(path), File::open(source)?.take(metadata.len()))?)
        };
        copy().with_context(|| format!("cannot put {} into an image", source.display()))
    }

    /// Adds a file of these bytes.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn text(&mut self, path: &Path, text: &str) -> Result<()> {
        let mut header = header(EntryType::Regular, 0o644, text.len() as u64);
        self.tar.append_data(&mut header, relative(path), text.as_bytes()).context("cannot write a layer")
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn link(&mut self, path: &Path, target: &Path) -> Result<()> {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        self.tar.append_link(&mut header, relative(path), target).context("cannot write a layer")
    }

    /// Makes the archive of an image with this layer.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(self, image: &Image, archive: &Path) -> Result<()> {
        drop(self.tar.into_inner().context("cannot write a layer")?.into_inner().context("cannot write a layer")?);
        let (layer, size) = file_digest(&self.path)?;
        let config = json!({
            "architecture": architecture(), "os": "linux",
            "config": {"Entrypoint": image.entrypoint, "Env": image.environment},
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        });
        let config = config.to_string();
        let layers = [descriptor("application/vnd.oci.image.layer.v1.tar", &layer, size)];
        let described =
            descriptor("application/vnd.oci.image.config.v1+json", &text_digest(&config), config.len() as u64);
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": manifest_type, "config": described, "layers": layers});
        let manifest = manifest.to_string();
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": manifest_type, "digest": text_digest(&manifest), "size": manifest.len(),
            "annotations": {NAME: image.name, "org.opencontainers.image.ref.name": image.name},
        }]});
        let index = index.to_string();

        let mut whole = Layer::create(archive)?;
        whole.text(Path::new("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        whole.text(Path::new("index.json"), &index)?;
        whole.text(&blob(&text_digest(&manifest)), &manifest)?;
        whole.text(&blob(&text_digest(&config)), &config)?;
        whole.file(&blob(&layer), &self.path)?;
        drop(whole.tar.into_inner().context("cannot write an image")?.into_inner().context("cannot write an image")?);
        fs::remove_file(&self.path).context("cannot remove a layer")
    }
}

/// The name and the digest that an archive's image has.
///
/// # Errors
/// If the archive is none of an OCI image.
pub fn identify(archive: &Path) -> Result<(String, String)> {
    let read = || -> Result<(String, String)> {
        let mut archive = tar::Archive::new(File::open(archive)?);
        let mut entries = archive.entries()?.filter_map(Result::ok);
        let mut index = entries
            .find(|entry| entry.path().is_ok_and(|path| path.ends_with("index.json")))
            .context("no index.json")?;
        let mut text = String::new();
        index.read_to_string(&mut text)?;
        let index: Value = serde_json::from_str(&text)?;
        let name = index.pointer("/manifests/0/annotations").and_then(|all| all.get(NAME)).and_then(Value::as_str);
        let digest = index.pointer("/manifests/0/digest").and_then(Value::as_str);
        let (name, digest) = (
            name.with_context(|| format!("its image has no annotation {NAME}, which `docker save` writes"))?,
            digest.context("its image has no digest")?,
        );
        Ok((name.to_owned(), digest.to_owned()))
    };
    read().with_context(|| format!("{} is no archive of an OCI image", archive.display()))
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

fn blob(digest: &str) -> PathBuf {
    Path::new("blobs").join(digest.replace(':', "/"))
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn text_digest(text: &str) -> String {
    name(digest(&SHA256, text.as_bytes()).as_ref())
}

fn file_digest(path: &Path) -> Result<(String, u64)> {
    let (mut file, mut digest, mut size) = (File::open(path)?, Digest::new(&SHA256), 0);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        digest.update(bytes);
        size += read as u64;
    }
    Ok((name(digest.finish().as_ref()), size))
}

fn name(digest: &[u8]) -> String {
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_give_the_same_image() {
        let folder = std::env::temp_dir().join(format!("podmeta-oci-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let image = Image { name: "podmeta.test/x:1".into(), entrypoint: vec!["/x".into()], environment: vec![] };
        let archives = ["one", "two"].map(|name| {
            let mut layer = Layer::create(&folder.join("layer")).unwrap();
            layer.folder(Path::new("/etc")).unwrap();
            layer.text(Path::new("/etc/hello"), "hello").unwrap();
            layer.link(Path::new("/hello"), Path::new("etc/hello")).unwrap();
            layer.finish(&image, &folder.join(name)).unwrap();
            fs::read(folder.join(name)).unwrap()
        });
        assert_eq!(archives[0], archives[1]);
        let (name, digest) = identify(&folder.join("one")).unwrap();
        assert_eq!((name.as_str(), digest.len()), ("podmeta.test/x:1", 71));
        fs::remove_dir_all(&folder).unwrap();
    }
}
