# SPDX-License-Identifier: Apache-2.0
"""Diffusion by the equations of Karras et al. (arXiv 2206.00364): loss, schedule, samplers."""

from prestissimo.ops import cfg_combine
from prestissimo.sampling.denoisers import (
    PARAMETERISATIONS,
    Denoiser,
    Estimate,
    Preconditioned,
    RectifiedFlow,
    VelocityPredicted,
    estimate,
)
from prestissimo.sampling.edm import denoise, draw_sigma, edm_loss, scalings
from prestissimo.sampling.guidance import by_level, classifier_free
from prestissimo.sampling.noise import latent_noise
from prestissimo.sampling.samplers import (
    SAMPLERS,
    STOCHASTIC,
    ctm,
    ddim,
    dpm2,
    dpmpp_2m,
    dpmpp_2s,
    euler,
    heun,
    pingpong,
)
from prestissimo.sampling.schedules import karras

__all__ = [
    "PARAMETERISATIONS",
    "SAMPLERS",
    "STOCHASTIC",
    "Denoiser",
    "Estimate",
    "Preconditioned",
    "RectifiedFlow",
    "VelocityPredicted",
    "by_level",
    "cfg_combine",
    "classifier_free",
    "ctm",
    "ddim",
    "denoise",
    "dpm2",
    "dpmpp_2m",
    "dpmpp_2s",
    "draw_sigma",
    "edm_loss",
    "estimate",
    "euler",
    "heun",
    "karras",
    "latent_noise",
    "pingpong",
    "scalings",
]
