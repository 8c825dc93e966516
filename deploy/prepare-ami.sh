#!/bin/sh
# Prepare a machine image for cluster.yaml: Python, torch and raycap's other dependencies, in the
# versions of constraints.txt. Machines then start without downloading gigabytes.
#
# Start one instance from the AMI that you would otherwise use: Ubuntu for the head and the CPU
# machines, Ubuntu with the NVIDIA driver for the GPU machines. Then, from the root of raycap:
#   scp -r constraints.txt pyproject.toml README.md LICENSE raycap deploy/prepare-ami.sh ubuntu@HOST:
#   ssh ubuntu@HOST sh prepare-ami.sh
#   aws ec2 create-image --instance-id i-... --name raycap-0.1.0
# Terminate the instance when the image is ready. Prepare the images again when constraints.txt
# changes; until then, machines download what differs.
set -eu
if ! command -v python3.11 >/dev/null; then
    sudo apt-get update
    sudo apt-get install --yes software-properties-common
    sudo add-apt-repository --yes ppa:deadsnakes/ppa
    sudo apt-get install --yes python3.11 python3.11-venv
fi
test -x ~/venv/bin/python || python3.11 -m venv ~/venv
~/venv/bin/pip install --constraint constraints.txt .
~/venv/bin/pip uninstall --yes raycap   # the cluster installs the version that `ray up` copies
