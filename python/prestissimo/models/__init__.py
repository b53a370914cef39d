# SPDX-License-Identifier: Apache-2.0
"""Folders of weights: configurations and checkpoints."""
