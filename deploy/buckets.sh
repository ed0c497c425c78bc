#!/bin/sh
# The buckets, and for each a user that may use that bucket only.  Doing it twice changes nothing.
set -eu
mc alias set --quiet store http://minio:9000 "$MINIO_ROOT_USER" "$MINIO_ROOT_PASSWORD" >/dev/null

allow() { # bucket (also the user's name), password
    mc mb --quiet --ignore-existing "store/$1"
    cat >"/tmp/$1.json" <<JSON
{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation"], "Resource": ["arn:aws:s3:::$1"]},
  {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], "Resource": ["arn:aws:s3:::$1/*"]}]}
JSON
    mc admin policy create store "only-$1" "/tmp/$1.json"
    mc admin user add store "$1" "$2"
    mc admin policy attach store "only-$1" --user "$1" || mc admin user info store "$1"
}

allow mlflow "$TWIN_MLFLOW_S3_PASSWORD"
allow dvc "$TWIN_DVC_S3_PASSWORD"
