# SPDX-License-Identifier: Apache-2.0
"""Measures of generated and reconstructed music: judges, distances, spectra, text adherence."""
