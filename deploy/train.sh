#!/bin/sh
# One-shot service `train` of docker-compose.yml: trains in its own folder with the code of the image, registers the
# models, and copies the reports and quarantined rows to where the console reads them.  Arguments go to `dvc repro`.
set -eu
code=${TWIN_CODE_FOLDER:-/app}
work=${TWIN_TRAINING_FOLDER:-/training}
published=${TWIN_PUBLISHED_FOLDER:-/published}
mkdir -p "$work"
for part in telemetry physics features simulator training pipelines dvc.yaml params.yaml .dvcignore; do
  rm -rf "${work:?}/$part"
  cp -R "$code/$part" "$work/$part"
done
cd "$work"
[ -d .dvc ] || python -m dvc init --quiet --no-scm
python -m dvc repro "$@"
for part in reports data/quarantine; do
  if [ -d "$part" ]; then
    mkdir -p "$published/$part"
    cp -R "$part/." "$published/$part/"
  fi
done
