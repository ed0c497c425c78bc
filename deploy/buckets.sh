#!/bin/sh
# Creates the S3 buckets, and for each a user with access to that bucket only.  Idempotent.
# Server and administrator credentials come from MC_HOST_store: http://user:password@host:port.
set -eu

allow() { # bucket (also the user's name), password
    mc mb --quiet --ignore-existing "store/$1"
    policy=$(mktemp)
    cat >"$policy" <<JSON
{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation"], "Resource": ["arn:aws:s3:::$1"]},
  {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], "Resource": ["arn:aws:s3:::$1/*"]}]}
JSON
    mc admin policy create store "only-$1" "$policy"
    rm "$policy"
    # Through standard input: command-line arguments are visible to every user of the machine.
    printf '%s\n%s\n' "$1" "$2" | mc admin user add store
    mc admin policy attach store "only-$1" --user "$1" || mc admin user info store "$1"
}

allow mlflow "$TWIN_MLFLOW_S3_PASSWORD"
allow dvc "$TWIN_DVC_S3_PASSWORD"
