"temporary stand-in"
import torch
def orthogonal(g, steps=5):
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x/(x.norm() + 1e-7)
    for _ in range(steps):
        a = x @ x.T
        x = torch.addmm(x, torch.addmm(a, a, a, beta=-4.775, alpha=2.0315), x, beta=3.4445)
    return x.T if g.shape[0] > g.shape[1] else x
class MuonAdamW(torch.optim.AdamW):
    def __init__(self, parameters, matrices, lr, lr_adam=None, weight_decay=0., betas=(.9,.98)):
        ids = {id(m) for m in matrices}; parameters = list(parameters)
        super().__init__([dict(params=[p for p in parameters if id(p) not in ids], lr=lr_adam or lr), dict(params=list(matrices), lr=lr)], lr=lr, betas=betas, weight_decay=weight_decay)
