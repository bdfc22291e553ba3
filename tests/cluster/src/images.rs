//! Images for test clusters, built from files of this host. An archive is cached until its content changes.

pub mod containerd;
pub mod oci;
mod recipes;
mod root_fs;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::programs::{cache_dir, short_digest};
use oci::LayerWriter;

/// The image of test pods: a shell, curl, Python and Node.js with the clouds' SDKs, cloud-init, and moto.
pub const CLIENT: &str = "podmeta.test/client:1";
/// CoreDNS.
pub const COREDNS: &str = "podmeta.test/coredns:1";
/// The pause container of every pod.
pub const PAUSE: &str = "podmeta.test/pause:1";
/// podmeta's programs of this checkout.
pub const PODMETA: &str = "podmeta.test/podmeta:dev";

/// The directory of moto and its Python packages in [`CLIENT`]. Python finds them only with `PYTHONPATH`.
pub const MOTO_DIR: &str = "/opt/moto";

/// An image that this program can build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TestImage {
    /// [`PAUSE`].
    Pause,
    /// [`COREDNS`].
    Coredns,
    /// [`CLIENT`].
    Client,
    /// [`PODMETA`]: the newest builds in `target/`.
    Podmeta,
}

impl TestImage {
    /// Returns the path of the image's archive. Builds it if no archive of the current content exists.
    ///
    /// # Errors
    /// If a file of the image is missing.
    pub fn ensure_archive(self) -> Result<PathBuf> {
        let (image, files) = match self {
            Self::Pause => recipes::pause()?,
            Self::Coredns => recipes::coredns()?,
            Self::Client => recipes::client()?,
            Self::Podmeta => recipes::podmeta()?,
        };
        let dir = archive_dir()?;
        let key = short_digest(format!("{image:?}\n{}", files.fingerprint()).as_bytes());
        let short = image.name.trim_start_matches("podmeta.test/").replace(':', "-");
        let archive = dir.join(format!("{short}-{key}.tar"));
        if !archive.exists() {
            let (layer, new) = (archive.with_extension("layer"), archive.with_extension("new"));
            let mut writer = LayerWriter::create(&layer)?;
            files.write(&mut writer)?;
            writer.finish(&image, &new)?;
            let cached = fs::read_dir(&dir)?.flatten().map(|entry| entry.path());
            let outdated = cached
                .filter(|path| path.file_name().is_some_and(|name| is_archive_of(&short, &name.to_string_lossy())));
            outdated.for_each(|path| drop(fs::remove_file(path)));
            fs::rename(&new, &archive)?;
        }
        Ok(archive)
    }
}

/// Returns the cache directory of image archives, which it creates.
fn archive_dir() -> Result<PathBuf> {
    let dir = cache_dir()?.join("images");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// True if a file name is that of an archive of the image, of any content: `{short}-{12 hex digits}.tar`.
fn is_archive_of(short: &str, file: &str) -> bool {
    let key = file.strip_prefix(short).and_then(|rest| rest.strip_prefix('-')?.strip_suffix(".tar"));
    key.is_some_and(|key| key.len() == 12 && key.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_of_another_image_is_not_outdated() {
        assert!(is_archive_of("client-1", "client-1-0123456789ab.tar"));
        for other in ["client-10-0123456789ab.tar", "client-1-0123456789ab.new", "client-1-xyz.tar", "pause-1.tar"] {
            assert!(!is_archive_of("client-1", other), "{other}");
        }
    }
}
