# SPDX-License-Identifier: Apache-2.0
"""What base training and every distillation share: the loop, the moving average, checkpoints that resume, logs."""
