//! Writes the CRDs to a directory. Usage: `crdgen DIRECTORY` (run by `make crds`).

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1).ok_or("missing argument: the directory to write to")?;
    for generated in podmeta_crds::crd::generate()? {
        std::fs::write(Path::new(&directory).join(generated.file_name), generated.to_yaml()?)?;
    }
    Ok(())
}
