//! Writes the definitions of both resources into a folder: `make crds`.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("the folder to write to is missing")?;
    for published in podmeta_crds::crd::published()? {
        std::fs::write(Path::new(&folder).join(published.file), published.yaml()?)?;
    }
    Ok(())
}
