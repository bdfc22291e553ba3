//! Writes OCI image archives with one layer. The same files always give the same bytes.

use std::fs::{self, File};
use std::io::{BufWriter, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aws_lc_rs::digest::{Context as Digest, SHA256, digest};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

/// The annotation from which containerd reads the image name.
const NAME_ANNOTATION: &str = "io.containerd.image.name";

/// The configuration of an image.
#[derive(Clone, Debug)]
pub struct ImageConfig {
    /// The full name, such as `podmeta.test/pause:1`.
    pub name: String,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Environment variables, as `NAME=value`.
    pub environment: Vec<String>,
}

/// Writes a tar archive: a layer, or the archive of an image.
pub struct LayerWriter {
    tar: Builder<BufWriter<File>>,
    path: PathBuf,
}

impl LayerWriter {
    /// Creates an empty layer in a file.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { tar: Builder::new(BufWriter::new(file)), path: path.to_owned() })
    }

    /// Adds a directory with mode 755, or 1777 for `/tmp`.
    ///
    /// # Errors
    /// If the layer cannot be written.
    pub fn add_dir(&mut self, path: &Path) -> Result<()> {
        let mode = if path == Path::new("/tmp") { 0o1777 } else { 0o755 };
        let mut header = header(EntryType::Directory, mode, 0);
        let written = self.tar.append_data(&mut header, relative(path), std::io::empty());
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Adds a file of the host. Follows symbolic links.
    ///
    /// # Errors
    /// If the file cannot be read, or the layer cannot be written.
    pub fn add_file(&mut self, path: &Path, source: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let mut copy = || -> Result<()> {
            let metadata = fs::metadata(source)?;
            let mode = if metadata.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
            let mut header = header(EntryType::Regular, mode, metadata.len());
            Ok(self.tar.append_data(&mut header, relative(path), File::open(source)?.take(metadata.len()))?)
        };
        copy().with_context(|| format!("cannot add {} to a layer", source.display()))
    }

    /// Adds a file with this content.
    ///
    /// # Errors
    /// If the layer cannot be written.
    pub fn add_text(&mut self, path: &Path, text: &str) -> Result<()> {
        let mut header = header(EntryType::Regular, 0o644, text.len() as u64);
        let written = self.tar.append_data(&mut header, relative(path), text.as_bytes());
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// If the layer cannot be written.
    pub fn add_link(&mut self, path: &Path, target: &Path) -> Result<()> {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        let written = self.tar.append_link(&mut header, relative(path), target);
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Writes the archive of an image with this layer, and removes the layer's file.
    ///
    /// # Errors
    /// If the archive cannot be written.
    pub fn finish(self, image: &ImageConfig, archive: &Path) -> Result<()> {
        drop(self.tar.into_inner().context("cannot write a layer")?.into_inner().context("cannot write a layer")?);
        let (layer, size) = file_digest(&self.path)?;
        let config = json!({
            "architecture": architecture(), "os": "linux",
            "config": {"Entrypoint": image.entrypoint, "Env": image.environment},
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        });
        let config = config.to_string();
        let layers = [descriptor("application/vnd.oci.image.layer.v1.tar", &layer, size)];
        let config_descriptor =
            descriptor("application/vnd.oci.image.config.v1+json", &text_digest(&config), config.len() as u64);
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config_descriptor, "layers": layers});
        let manifest = manifest.to_string();
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": manifest_type, "digest": text_digest(&manifest), "size": manifest.len(),
            "annotations": {NAME_ANNOTATION: image.name, "org.opencontainers.image.ref.name": image.name},
        }]});
        let index = index.to_string();

        let mut output = LayerWriter::create(archive)?;
        output.add_text(Path::new("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        output.add_text(Path::new("index.json"), &index)?;
        output.add_text(&blob_path(&text_digest(&manifest)), &manifest)?;
        output.add_text(&blob_path(&text_digest(&config)), &config)?;
        output.add_file(&blob_path(&layer), &self.path)?;
        drop(
            output
                .tar
                .into_inner()
                .context("cannot write an image archive")?
                .into_inner()
                .context("cannot write an image archive")?,
        );
        fs::remove_file(&self.path).context("cannot remove a layer")
    }
}

/// Returns the name and the digest of the image in an archive.
///
/// # Errors
/// If the file is not an OCI image archive, or the image has no name.
pub fn name_and_digest(archive: &Path) -> Result<(String, String)> {
    let read = || -> Result<(String, String)> {
        let mut archive = tar::Archive::new(File::open(archive)?);
        let mut entries = archive.entries()?.filter_map(Result::ok);
        let mut index = entries
            .find(|entry| entry.path().is_ok_and(|path| path.ends_with("index.json")))
            .context("no index.json")?;
        let mut text = String::new();
        index.read_to_string(&mut text)?;
        let index: Value = serde_json::from_str(&text)?;
        let name =
            index.pointer("/manifests/0/annotations").and_then(|all| all.get(NAME_ANNOTATION)).and_then(Value::as_str);
        let digest = index.pointer("/manifests/0/digest").and_then(Value::as_str);
        let (name, digest) = (
            name.with_context(|| format!("the image has no annotation {NAME_ANNOTATION}, which `docker save` writes"))?,
            digest.context("the image has no digest")?,
        );
        Ok((name.to_owned(), digest.to_owned()))
    };
    read().with_context(|| format!("{} is not a valid OCI image archive", archive.display()))
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

fn blob_path(digest: &str) -> PathBuf {
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
    digest_name(digest(&SHA256, text.as_bytes()).as_ref())
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
    Ok((digest_name(digest.finish().as_ref()), size))
}

fn digest_name(digest: &[u8]) -> String {
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_files_give_identical_archives() {
        let dir = std::env::temp_dir().join(format!("podmeta-oci-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let image = ImageConfig { name: "podmeta.test/x:1".into(), entrypoint: vec!["/x".into()], environment: vec![] };
        let archives = ["one", "two"].map(|name| {
            let mut layer = LayerWriter::create(&dir.join("layer")).unwrap();
            layer.add_dir(Path::new("/etc")).unwrap();
            layer.add_text(Path::new("/etc/hello"), "hello").unwrap();
            layer.add_link(Path::new("/hello"), Path::new("etc/hello")).unwrap();
            layer.finish(&image, &dir.join(name)).unwrap();
            fs::read(dir.join(name)).unwrap()
        });
        assert_eq!(archives[0], archives[1]);
        let (name, digest) = name_and_digest(&dir.join("one")).unwrap();
        assert_eq!((name.as_str(), digest.len()), ("podmeta.test/x:1", 71));
        fs::remove_dir_all(&dir).unwrap();
    }
}
