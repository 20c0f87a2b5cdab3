"""x"""
from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path
import numpy as np

@dataclass(frozen=True)
class Labels:
    centers_m: np.ndarray
    sizes_m: np.ndarray
    yaws_rad: np.ndarray
    types: np.ndarray
    occluded: np.ndarray

TYPES=("Car","Van","Pedestrian","Cyclist")
def read_velo_T_camera(path):
    rows={l.split()[0].rstrip(":"):np.array(l.split()[1:],float) for l in path.read_text().splitlines() if l.strip()}
    c=np.eye(4); c[:3]=rows["Tr_velo_cam"].reshape(3,4)
    r=np.eye(4); r[:3,:3]=rows["R_rect"].reshape(3,3)
    return np.linalg.inv(r@c)
def read_labels(path, velo_T_camera):
    by={}
    for l in path.read_text().splitlines():
        f=l.split()
        if f[2] in TYPES: by.setdefault(int(f[0]),[]).append((f[2],int(f[4]),*map(float,f[10:17])))
    out={}
    for k,v in by.items():
        a=np.array([r[2:] for r in v]); h,w,l,x,y,z,ry=a.T
        cam=np.stack([x,y-h/2,z,np.ones_like(x)],1)
        out[k]=Labels((cam@velo_T_camera.T)[:,:3],np.stack([l,w,h],1),-ry-np.pi/2,np.array([r[0] for r in v]),np.array([r[1] for r in v]))
    return out
def points_inside(points,lab):
    rel=points[None]-lab.centers_m[:,None].astype(np.float32)
    c,s=np.cos(lab.yaws_rad)[:,None].astype(np.float32),np.sin(lab.yaws_rad)[:,None].astype(np.float32)
    x=c*rel[...,0]+s*rel[...,1];y=c*rel[...,1]-s*rel[...,0]
    hs=(lab.sizes_m/2+0.05)[:,None].astype(np.float32)
    return ((abs(x)<hs[...,0])&(abs(y)<hs[...,1])&(abs(rel[...,2])<hs[...,2])).sum(1)
