# SPDX-License-Identifier: Apache-2.0
"""Diffusion by the equations of Karras et al. (arXiv 2206.00364): loss, schedule, samplers."""

from prestissimo.sampling.edm import denoise, draw_sigma, edm_loss, scalings
from prestissimo.sampling.guidance import cfg_combine, classifier_free
from prestissimo.sampling.noise import latent_noise
from prestissimo.sampling.samplers import SAMPLERS, Denoiser, euler, heun
from prestissimo.sampling.schedules import karras

__all__ = [
    "SAMPLERS",
    "Denoiser",
    "cfg_combine",
    "classifier_free",
    "denoise",
    "draw_sigma",
    "edm_loss",
    "euler",
    "heun",
    "karras",
    "latent_noise",
    "scalings",
]
