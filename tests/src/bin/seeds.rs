//! Writes the seed corpus of the fuzz targets. Usage: `seeds DIRECTORY`.

use std::path::PathBuf;

use anyhow::Context as _;
use podmeta_tests::fuzz::seed;

fn main() -> anyhow::Result<()> {
    let dir = PathBuf::from(std::env::args_os().nth(1).context("missing argument: output directory")?);
    for (target, seeds) in [
        ("request", seed::requests()?),
        ("path", seed::paths()?),
        ("token", seed::tokens()),
        ("objects", seed::objects()?),
        ("cel", seed::expressions()?),
        ("tag", seed::tags()),
    ] {
        let dir = dir.join(target);
        std::fs::create_dir_all(&dir)?;
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{number}")), seed)?;
        }
        println!("{}: {} seeds", dir.display(), seeds.len());
    }
    Ok(())
}
